"""Sub-commands of `edgeclf`, one module each: options, calls of the floors below, output.

These modules are imported for every `--help`, so at the top they import typer, the standard library and light modules
of the toolkit only; numpy, OpenCV, ONNX Runtime, TensorFlow and the floors below are imported inside the functions.
"""

from collections.abc import Callable

from edgeclf.toolkit.commands.bench import bench
from edgeclf.toolkit.commands.compare import compare
from edgeclf.toolkit.commands.demo import demo
from edgeclf.toolkit.commands.doctor import doctor
from edgeclf.toolkit.commands.evaluate import evaluate
from edgeclf.toolkit.commands.export import export
from edgeclf.toolkit.commands.infer import infer
from edgeclf.toolkit.commands.info import info
from edgeclf.toolkit.commands.train import train
from edgeclf.toolkit.commands.verify import verify

# In the order of `edgeclf --help`: from a folder of images to a device.
COMMANDS: dict[str, Callable[..., None]] = {
    "doctor": doctor,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "export": export,
    "verify": verify,
    "infer": infer,
    "bench": bench,
    "info": info,
    "demo": demo,
}
