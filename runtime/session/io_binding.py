"""IO binding: inference on a GPU in memory that stays on the device, with one copy in and one copy out."""

import threading
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import AnyArray
from edgeclf.runtime.session._onnxruntime import OrtSession, onnxruntime

# Where a provider's memory is, in ONNX Runtime's words. DirectML takes its inputs from the CPU's memory.
_MEMORY_OF = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "DmlExecutionProvider": "cpu",
}
# Providers that plan, search for kernels or compile for each new shape of the input.
FIXED_SHAPE_PROVIDERS = frozenset(_MEMORY_OF)
# Batches of different sizes that keep their memory; a pipeline has one, single frames another.
_MOST_SHAPES = 4


class BoundRuns:
    """Runs a session by IO binding, with memory of its own for each thread and each shape of the input.

    Args:
        session: An ONNX Runtime session with one input.
        provider: The provider that runs it.
        output_name: The output that is wanted.
    """

    def __init__(self, session: OrtSession, provider: str, output_name: str) -> None:
        self._session = session
        self._memory = _MEMORY_OF.get(provider, "cpu")
        self._input_name = session.get_inputs()[0].name
        self._output_name = output_name
        self._local = threading.local()

    def run(self, tensor: AnyArray) -> AnyArray:
        """One inference.

        Args:
            tensor: The input, contiguous, of the shape and dtype the session takes.

        Returns:
            The output, in memory that no later inference writes to.
        """
        bound: dict[tuple[int, ...], tuple[Any, Any]] = self._local.__dict__.setdefault("bound", {})
        if tensor.shape not in bound:
            while len(bound) >= _MOST_SHAPES:
                del bound[next(iter(bound))]
            bound[tensor.shape] = self._bind(tensor)
        binding, value = bound[tensor.shape]
        value.update_inplace(np.ascontiguousarray(tensor))
        self._session.run_with_iobinding(binding)
        # ONNX Runtime writes the next output to the same place.
        return np.array(binding.copy_outputs_to_cpu()[0])

    def _bind(self, tensor: AnyArray) -> tuple[Any, Any]:
        value = onnxruntime.OrtValue.ortvalue_from_numpy(np.array(tensor), self._memory, 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input_name, value)
        binding.bind_output(self._output_name, "cpu")
        return binding, value
