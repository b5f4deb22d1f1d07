"""Going on from an earlier run: which classes are new, gone or renamed, and which weights stay."""

from pathlib import Path

import numpy as np
import pytest

from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.runtime.errors import RunFolderError
from edgeclf.training.data.dataset import Sample
from edgeclf.training.fit.transfer import Transfer, class_changes, count_leaked, split_by_digest
from edgeclf.training.networks.dropout import scale_dropout

from ...randomness import fresh_rng

import_tensorflow()
import keras  # noqa: E402 - after the settings that TensorFlow reads when it loads


def images(label, digests, split="train"):
    return [Sample(f"{label}/{digest}.jpg", label, split, digest) for digest in digests]


def changes(old, new):
    """What `class_changes` says of {label: digests} before and now."""
    return class_changes(
        sorted(old),
        [sample for label, digests in old.items() for sample in images(label, digests)],
        sorted(new),
        [sample for label, digests in new.items() for sample in images(label, digests)],
    )


def test_new_and_gone_classes_are_told():
    found = changes({"cat": "ab", "dog": "cd"}, {"cat": "abx", "bird": "ef"})
    assert found.kept == ("cat",)
    assert found.added == ("bird",)
    assert found.gone == ("dog",)
    assert found.renamed == ()
    assert found.old_names == {"cat": "cat"}


def test_a_class_whose_images_have_another_name_is_renamed():
    found = changes({"cat": "abcd", "dog": "efgh"}, {"kitten": "abcx", "puppy": "xyzh"})
    assert found.renamed == (("cat", "kitten"),)
    assert found.added == ("puppy",)
    assert found.gone == ("dog",)
    assert found.old_names == {"kitten": "cat"}


@pytest.mark.parametrize("name", ["ice cream", "Ice_Cream", "ICE-CREAM"])
def test_a_name_spelled_otherwise_is_the_same_class(name):
    assert changes({"ice cream ": "a", "b": "b"}, {name: "x", "b": "y"}).renamed == (("ice cream ", name),)
    assert changes({"ice": "a", "b": "b"}, {name: "x", "b": "y"}).renamed == ()


def test_images_moved_into_a_class_that_was_there_are_no_renaming():
    found = changes({"cat": "ab", "dog": "cd"}, {"cat": "abcd", "bird": "e"})
    assert (found.gone, found.renamed) == (("dog",), ())


def test_without_digests_names_alone_count():
    old, new = [Sample("Cat/1.jpg", "Cat", "train")], [Sample("cat/1.jpg", "cat", "train")]
    assert class_changes(["Cat"], old, ["cat"], new).renamed == (("Cat", "cat"),)


def transfer_from(model, found):
    """The transfer from a run of cats and dogs."""
    return Transfer(Path("runs/old"), ("cat", "dog"), model, found, 0)


def network(classes, features=4):
    image = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Conv2D(features, 3, name="conv")(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.Dropout(0.2, name="head_dropout")(keras.layers.GlobalAveragePooling2D()(x))
    x = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(image, keras.layers.Softmax(name="probabilities")(x))


def test_rows_of_old_classes_stay_and_new_ones_are_fresh():
    old, new = network(2), network(3)
    old.get_layer("logits").set_weights([np.arange(8, dtype="float32").reshape(4, 2), np.array([5.0, 6.0])])
    fresh = new.get_layer("logits").get_weights()
    found = changes({"cat": "ab", "dog": "cd"}, {"bird": "x", "cat": "ab", "hound": "cd"})
    transfer_from(old, found).fill(new, ["bird", "cat", "hound"])
    kernel, bias = new.get_layer("logits").get_weights()
    np.testing.assert_array_equal(kernel[:, 1:], np.arange(8).reshape(4, 2))
    np.testing.assert_array_equal(kernel[:, 0], fresh[0][:, 0])
    assert bias.tolist() == [0.0, 5.0, 6.0]
    for mine, theirs in zip(new.get_layer("conv").get_weights(), old.get_layer("conv").get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_ends_of_relus_that_were_trained_for_8_bits_stay():
    def with_relu(ceiling):
        image = keras.Input((8, 8, 3), dtype="uint8")
        x = keras.layers.Conv2D(4, 3, name="conv")(keras.layers.Rescaling(1 / 255)(image))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU(ceiling, name="relu")(x))
        return keras.Model(image, keras.layers.Softmax()(keras.layers.Dense(2, name="logits")(x)))

    old, new = with_relu(0.03), with_relu(None)
    same = {"cat": "a", "dog": "b"}
    transfer_from(old, changes(same, same)).fill(new, ["cat", "dog"])
    pixels = fresh_rng().integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(new(pixels), old(pixels))


def test_the_backbone_ends_before_the_head():
    old = network(2)
    transfer = transfer_from(old, changes({"cat": "a", "dog": "b"}, {"cat": "a", "dog": "b"}))
    backbone = transfer.backbone()
    assert backbone.output_shape == (None, 4)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    features = backbone.predict(pixels, verbose=0)
    logits = features @ old.get_layer("logits").get_weights()[0] + old.get_layer("logits").get_weights()[1]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(old.predict(pixels, verbose=0), expected, rtol=1e-4)


def test_another_network_is_refused():
    found = changes({"cat": "a", "dog": "b"}, {"cat": "a", "dog": "b"})
    old = transfer_from(network(2), found)
    with pytest.raises(RunFolderError, match="4 features, not 5"):
        old.fill(keras.Sequential([keras.Input((5,)), keras.layers.Dense(2, name="logits")]), ["cat", "dog"])
    with pytest.raises(RunFolderError, match="layer conv of another shape"):
        old.fill(network(2, features=5), ["cat", "dog"])
    with pytest.raises(RunFolderError, match="no layer other"):
        old.fill(keras.Sequential([keras.Input((5,)), keras.layers.Dense(2, name="other")]), ["cat", "dog"])


def test_images_the_earlier_run_learnt_from_are_leaked_into_a_test():
    earlier = [*images("a", "12", "train"), *images("b", "3", "val"), *images("b", "4", "test")]
    assert split_by_digest(earlier) == {"1": "train", "2": "train", "3": "val", "4": "test"}
    now = [*images("a", "1345", "test"), *images("b", "2", "train")]
    assert count_leaked(earlier, now) == 2
    assert count_leaked(earlier, images("a", "12", "train")) == 0


def test_a_backbone_that_is_trained_has_its_own_dropout_again(tmp_path):
    def build(rates):
        image = keras.Input((8, 8, 3), dtype="uint8")
        x = keras.layers.Conv2D(4, 3, name="conv")(keras.layers.Rescaling(1 / 255)(image))
        for number, rate in enumerate(rates):
            x = keras.layers.Dropout(rate, name=f"drop{number}")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(image, x)

    own = build((0.4, 0.2))
    x = keras.layers.Dropout(0.2, name="head_dropout")(own.output)
    whole = keras.Model(own.input, keras.layers.Dense(2, name="logits")(x))
    # As two trainings with --dropout-scale leave them; a layer that is loaded with rate 0 has no generator.
    scale_dropout(whole, 0.5)
    own.get_layer("drop1").rate = 0.0
    whole.save(tmp_path / "m.keras")
    loaded = transfer_from(keras.saving.load_model(tmp_path / "m.keras"), changes({"cat": "a"}, {"cat": "a"}))
    backbone = loaded.backbone(lambda: build((0.4, 0.2)))
    assert [backbone.get_layer(f"drop{number}").rate for number in range(2)] == [0.4, 0.2]
    for mine, theirs in zip(backbone.get_weights(), own.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    scale_dropout(backbone, 0.5)
    assert backbone.get_layer("drop0").rate == 0.2
    image = fresh_rng().integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    assert (np.asarray(backbone(image, training=True)) != np.asarray(backbone(image, training=False))).any()
    # One that stays frozen is the network as it is.
    assert loaded.backbone().get_layer("drop0").rate == 0.2
