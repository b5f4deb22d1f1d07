"""Values in memory and in files: what was written is read, in batches of any size, and the budget is given back."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgeclf.export.graph.value_store import ValueStore, run_in_batches, store_in_batches
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.session.opening import open_session_from_bytes

from ...randomness import fresh_rng


def session_of(*nodes, constants=(), output=TensorProto.FLOAT):
    infos = [
        helper.make_tensor_value_info(name, kind, None) for name, kind in (("x", TensorProto.FLOAT), ("y", output))
    ]
    graph = helper.make_graph(list(nodes), "g", [infos[0]], [infos[1]], list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return open_session_from_bytes(model.SerializeToString(), threads=1)


@pytest.mark.parametrize("budget", [0, 1 << 20])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_what_was_written_is_read_in_other_batches_too(budget, dtype):
    values = fresh_rng().integers(0, 255, (11, 3, 5)).astype(dtype)
    with ValueStore(budget) as store:
        stored = store.create("a", values.shape, dtype)
        for start in range(0, 11, 4):
            rows = slice(start, start + 4)
            target = stored.target(rows)
            target[...] = values[rows]
            stored.written(rows, target)
        for size in (1, 3, 4, 11, 20):
            read = [stored.read(slice(start, start + size)) for start in range(0, 11, size)]
            np.testing.assert_array_equal(np.concatenate(read), values)
            assert all(part.flags.c_contiguous for part in read)


def test_a_budget_holds_for_all_together_and_is_given_back():
    with ValueStore(100) as store:
        first = store.create("a", (10, 2), np.float32)
        assert np.shares_memory(first.target(slice(0, 1)), first.read(slice(0, 1)))
        second = store.create("b", (10, 2), np.float32)
        second.written(slice(0, 10), np.ones((10, 2), np.float32))
        # In a file, so that each reading is new.
        assert not np.shares_memory(second.read(slice(0, 1)), second.read(slice(0, 1)))
        store.drop("a")
        store.drop("a")
        assert "a" not in store
        third = store.create("c", (10, 2), np.float32)
        assert np.shares_memory(third.read(slice(0, 1)), third.read(slice(0, 1)))


@pytest.mark.parametrize("budget", [0, 1 << 20])
def test_a_model_runs_on_all_images(budget):
    values = fresh_rng().normal(size=(11, 6)).astype(np.float32)
    session = session_of(helper.make_node("Neg", ["x"], ["y"]))
    with ValueStore(budget) as store:
        store.keep("x", values)
        inputs = {"x": store["x"]}
        np.testing.assert_array_equal(
            np.concatenate([part.copy() for part in run_in_batches(session, inputs, batch=4)]), -values
        )
        for part in store_in_batches(session, inputs, store, "y", batch=4):
            assert part.dtype == np.float32
        np.testing.assert_array_equal(store["y"].read(slice(0, 11)), -values)


def test_an_output_that_is_an_input_or_a_view_of_it_is_written_too():
    values = fresh_rng().normal(size=(11, 6)).astype(np.float32)
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [0, 2, 3])
    for nodes in (
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
    ):
        session = session_of(*nodes, constants=[shape])
        with ValueStore(0) as store:
            store.keep("x", values)
            for _ in store_in_batches(session, {"x": store["x"]}, store, "y", batch=4):
                pass
            np.testing.assert_array_equal(store["y"].read(slice(0, 11)).reshape(11, 6), values)


def test_values_that_do_not_count_images_are_refused_by_name():
    session = session_of(helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0]))
    with ValueStore(0) as store:
        store.keep("x", np.zeros((11, 6), np.float32))
        with pytest.raises(InputError, match=r"y of shape \(6, 2\) for 2 images"):
            next(run_in_batches(session, {"x": store["x"]}, batch=4))
