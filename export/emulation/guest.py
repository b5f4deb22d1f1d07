"""The program inside the emulated system: runs a model on preprocessed images with NumPy and ONNX Runtime alone.

    python guest.py MODEL IMAGES.npy PROBABILITIES.npy

IMAGES holds (N, H, W, 3) uint8 RGB; PROBABILITIES becomes (N, C) float32. Prints the number of images done, a line for each.
"""

import sys

import numpy as np
import onnxruntime


def main(model: str, images_path: str, out_path: str) -> None:
    """Classifies the images one at a time on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    images = np.load(images_path)
    rows = []
    for number in range(len(images)):
        rows.append(session.run(None, {name: images[number : number + 1]})[0])
        sys.stdout.write(f"{number + 1}\n")
        sys.stdout.flush()
    np.save(out_path, np.concatenate(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
