"""The program inside the emulated system: runs a model on preprocessed images with NumPy and ONNX Runtime alone.

    python guest.py MODEL TENSOR.npy ROWS.npy OUTPUT BATCH

TENSOR holds N inputs as the file takes them; ROWS becomes (N, C), the file's output of that name. BATCH inputs are run at once, all
the same, for files that fix their number. Prints the number of inputs done, a line for each.
"""

import sys

import numpy as np
import onnxruntime


def main(model: str, tensor_path: str, out_path: str, output: str, batch: str) -> None:
    """Runs the inputs one at a time on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    tensor = np.load(tensor_path)
    rows = []
    for number in range(len(tensor)):
        (found,) = session.run([output], {name: np.repeat(tensor[number : number + 1], int(batch), axis=0)})
        # Some outputs are squeezed.
        rows.append(np.asarray(found).reshape(int(batch), -1)[:1])
        sys.stdout.write(f"{number + 1}\n")
        sys.stdout.flush()
    np.save(out_path, np.concatenate(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
