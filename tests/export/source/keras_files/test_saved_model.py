"""SavedModel folders: which signature is called, and that loading one reads and writes nothing else."""

import numpy as np
import pytest

from edgeclf.export.source.keras_files.saved_model import open_saved_model
from edgeclf.runtime.errors import ModelFileError, UsageError


def save(folder, effect=None, signatures=("serving_default",)):
    """A SavedModel of one matrix, its functions with an effect beside their result."""
    import tensorflow as tf

    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.matrix = tf.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

        @tf.function(input_signature=[tf.TensorSpec((None, 4, 5, 3), tf.float32, name="pixels")])
        def serve(self, pixels):
            mean = tf.reduce_mean(pixels, (1, 2))
            if effect is not None:
                mean = effect(tf, mean)
            return {"scores": mean @ self.matrix}

    net = Net()
    tf.saved_model.save(net, str(folder), signatures=dict.fromkeys(signatures, net.serve))
    return folder


def test_the_serving_signature_is_called(tmp_path, rng):
    opened = open_saved_model(save(tmp_path / "m", signatures=("other", "serving_default")))
    assert (opened.name, list(opened.inputs), list(opened.outputs)) == ("serving_default", ["pixels"], ["scores"])
    images = rng.uniform(0, 1, (3, 4, 5, 3)).astype(np.float32)
    expected = images.mean((1, 2)) @ np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    np.testing.assert_allclose(opened.function(pixels=images)["scores"], expected, rtol=1e-5)


def test_one_of_another_name_is_taken_where_it_is_the_only_one(tmp_path):
    assert open_saved_model(save(tmp_path / "m", signatures=("predict",))).name == "predict"


def test_several_are_named_and_one_may_be_chosen(tmp_path):
    folder = save(tmp_path / "m", signatures=("first", "second"))
    with pytest.raises(ModelFileError, match=r"first, second.*--signature"):
        open_saved_model(folder)
    assert open_saved_model(folder, signature="second").name == "second"
    with pytest.raises(UsageError, match="first or second"):
        open_saved_model(folder, signature="third")


def test_none_is_an_error(tmp_path):
    with pytest.raises(ModelFileError, match="no signature"):
        open_saved_model(save(tmp_path / "m", signatures=()))


def write_file(trace):
    def effect(tf, x):
        tf.io.write_file(str(trace), "x")
        return x

    return effect


def call_python(trace):
    return lambda tf, x: tf.ensure_shape(tf.py_function(lambda y: (trace.touch(), y)[1], [x], tf.float32), (None, 3))


def call_numpy(trace):
    return lambda tf, x: tf.ensure_shape(tf.numpy_function(lambda y: (trace.touch(), y)[1], [x], tf.float32), (None, 3))


def read_file(trace):
    return lambda tf, x: x + tf.cast(tf.strings.length(tf.io.read_file(str(trace))), tf.float32)


def print_to_file(trace):
    def effect(tf, x):
        tf.print("x", output_stream=f"file://{trace}")
        return x

    return effect


def save_variables(trace):
    def effect(tf, x):
        tf.raw_ops.SaveV2(prefix=str(trace), tensor_names=["a"], shape_and_slices=[""], tensors=[x])
        return x

    return effect


@pytest.mark.parametrize("effect", [write_file, call_python, call_numpy, read_file, print_to_file, save_variables])
def test_operations_that_reach_outside_are_refused_before_any_is_run(tmp_path, effect):
    trace = tmp_path / "trace"
    folder = save(tmp_path / "m", effect(trace))
    with pytest.raises(ModelFileError, match=r"more than compute.*--unsafe-load"):
        open_saved_model(folder)
    assert not list(tmp_path.glob("trace*"))
    assert open_saved_model(folder, is_trusted=True).name == "serving_default"


def test_an_initializer_that_writes_is_refused(tmp_path):
    import tensorflow as tf
    from tensorflow.python.trackable.resource import TrackableResource

    class Writes(TrackableResource):
        def _create_resource(self):
            return tf.raw_ops.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.int64)

        def _initialize(self):
            tf.io.write_file(str(tmp_path / "trace"), "x")

    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.resource = Writes()
            # Made here by the resource itself.
            self.handle = self.resource.resource_handle

        @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32)])
        def serve(self, x):
            return {"y": x + tf.cast(tf.raw_ops.LookupTableSizeV2(table_handle=self.handle), tf.float32)}

    net = Net()
    tf.saved_model.save(net, str(tmp_path / "m"), signatures=net.serve)
    with pytest.raises(ModelFileError, match="WriteFile"):
        open_saved_model(tmp_path / "m")
    assert not (tmp_path / "trace").exists()


def test_a_damaged_folder_is_an_error(tmp_path):
    folder = save(tmp_path / "m")
    data = (folder / "saved_model.pb").read_bytes()
    (folder / "saved_model.pb").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelFileError, match="damaged"):
        open_saved_model(folder)
    (folder / "saved_model.pb").write_bytes(data)
    for file in (folder / "variables").iterdir():
        file.unlink()
    with pytest.raises(ModelFileError, match="cannot open the SavedModel"):
        open_saved_model(folder)
