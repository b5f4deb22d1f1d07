"""IO binding: inference on a GPU with one copy in and one copy out, and outputs that keep their memory."""

import threading
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import AnyArray
from edgeclf.runtime.session._onnxruntime import OrtSession

# Providers that plan, search for kernels or compile for each new shape of the input.
FIXED_SHAPE_PROVIDERS = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider", "DmlExecutionProvider"})
# Batches of different sizes that keep their memory; a pipeline has one, single frames another.
_MOST_SHAPES = 4


class BoundRuns:
    """Runs a session by IO binding, with a binding of its own for each thread and each shape of the input.

    Args:
        session: An ONNX Runtime session with one input.
        output_name: The output that is wanted.
    """

    def __init__(self, session: OrtSession, output_name: str) -> None:
        self._session = session
        self._input_name = session.get_inputs()[0].name
        self._output_name = output_name
        self._local = threading.local()

    def run(self, tensor: AnyArray) -> AnyArray:
        """One inference.

        Args:
            tensor: The input, of the shape and dtype the session takes.

        Returns:
            The output, in memory that no later inference writes to.
        """
        bindings: dict[tuple[int, ...], Any] = self._local.__dict__.setdefault("bindings", {})
        if tensor.shape not in bindings:
            while len(bindings) >= _MOST_SHAPES:
                del bindings[next(iter(bindings))]
            bindings[tensor.shape] = binding = self._session.io_binding()
            binding.bind_output(self._output_name, "cpu")
        binding = bindings[tensor.shape]
        # Anew for each run: where the first node runs on another device, binding makes a copy, which a later change of the
        # bound value would not reach.
        binding.bind_cpu_input(self._input_name, np.ascontiguousarray(tensor))
        self._session.run_with_iobinding(binding)
        # ONNX Runtime writes the next output to the same place.
        return np.array(binding.copy_outputs_to_cpu()[0])
