"""Sorts a folder of photographs into one folder a class: an application built on `edgeclf.runtime` alone.

    python examples/sort_photos.py model.onnx PHOTOS SORTED [--min-confidence 0.8] [--move]

Photographs the model is not sure of go to `SORTED/unsure`; files that cannot be read stay where they are and are named
at the end. Needs numpy, OpenCV and ONNX Runtime: `pip install "edgeclf[headless]"`.
"""

import argparse
import shutil
import sys
from collections import Counter
from pathlib import Path

from edgeclf.runtime import Classifier, EdgeclfError, Prediction, image_paths

UNSURE = "unsure"


def folder_name(prediction: Prediction, min_confidence: float) -> str:
    """The folder a photograph belongs to. A class name may hold characters that a folder's name may not."""
    label = prediction.label if prediction.confidence >= min_confidence else UNSURE
    return "".join(character if character.isalnum() or character in " -_" else "_" for character in label) or "_"


def free_path(folder: Path, name: str) -> Path:
    """`folder/name`, or with a number where two photographs of the same name meet."""
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
    return path


def sort_photographs(model: Path, source: Path, target: Path, *, min_confidence: float, move: bool) -> int:
    """Sorts `source` into `target` and prints how many went where; gives the process's exit code."""
    classifier = Classifier(model)
    sorted_into: Counter[str] = Counter()
    unreadable: list[EdgeclfError] = []
    # Decoding overlaps inference and memory stays bounded, however many photographs there are.
    for path, result in classifier.stream(image_paths([source]), on_error="yield"):
        if isinstance(result, EdgeclfError):
            unreadable.append(result)
            continue
        folder = target / folder_name(result, min_confidence)
        folder.mkdir(parents=True, exist_ok=True)
        (shutil.move if move else shutil.copy2)(path, free_path(folder, path.name))
        sorted_into[folder.name] += 1
    for name, count in sorted(sorted_into.items()):
        print(f"{name}: {count}")
    for error in unreadable:
        print(error, file=sys.stderr)
    return 3 if unreadable else 0


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("sorted", type=Path)
    parser.add_argument("--min-confidence", type=float, default=0.8)
    parser.add_argument("--move", action="store_true", help="move the files; default: copy")
    options = parser.parse_args()
    try:
        return sort_photographs(
            options.model, options.photos, options.sorted, min_confidence=options.min_confidence, move=options.move
        )
    except EdgeclfError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
