"""The proof that an adopted model treats each image of a batch on its own: random images together and one by one."""

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.light.sessions import open_model
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import InputError, ModelFileError
from edgeclf.runtime.session.foreign.activation import probe_images
from edgeclf.runtime.session.foreign.use import ModelUse, label_count

# Two sizes, so that no product of the number of images with something else is taken for it.
_BATCHES = (2, 3)
# Kernels differ in their last bits with the number of images.
_TOLERANCE = 1e-4


def check_batches(model: onnx.ModelProto, use: ModelUse) -> None:
    """Runs an adopted model on batches and on single images.

    Raises:
        InputError: The results differ, or it cannot be run on several images.
        ModelFileError: It cannot be run at all.
    """
    images = probe_images(use.size_hw or (0, 0))[-sum(_BATCHES) :]
    session = open_model(model, threads=usable_cpus())
    name = model.graph.input[0].name
    try:
        alone = np.concatenate([session.run(None, {name: images[n : n + 1]})[0] for n in range(len(images))])
    except Exception as error:
        # As in `open_session`.
        raise ModelFileError(
            "cannot run the model on one image",
            got=str(error).split("\n", 1)[0][:300],
            expected="one row of probabilities",
            hint="export it again",
        ) from error
    wanted = (len(images), label_count(use.classes or 0))
    if alone.shape != wanted:
        raise ModelFileError("the model does not give one row an image", got=str(alone.shape), expected=str(wanted))
    start = 0
    for count in _BATCHES:
        part = slice(start, start + count)
        try:
            together = session.run(None, {name: images[part]})[0]
        except Exception as error:
            raise _fixed(str(error).split("\n", 1)[0][:300]) from error
        if together.shape != alone[part].shape:
            raise _fixed(f"an output of shape {together.shape} for {count} images")
        difference = float(np.abs(together - alone[part]).max())
        if not difference <= _TOLERANCE and np.isfinite(alone[part]).all():
            raise _fixed(f"probabilities that differ by {difference:.2g} from those of the same images one by one")
        start += count


def _fixed(got: str) -> InputError:
    return InputError(
        "the model is made for a fixed number of images, and cannot be made to take any number of them",
        got=got,
        expected="one row for each image, whatever the others are",
        hint="export it with a dynamic batch axis (in PyTorch dynamic_axes={'input': {0: 'batch'}} or dynamic_shapes)",
    )
