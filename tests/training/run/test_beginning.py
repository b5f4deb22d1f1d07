from dataclasses import replace

import pytest

from edgeclf.runtime.errors import InputError
from edgeclf.training.fit.resolve import resolve_options
from edgeclf.training.options import TrainOptions
from edgeclf.training.run.beginning import drop_beginning, keep_beginning, kept_weights


def begins_with(weights):
    options = resolve_options(TrainOptions(architecture="efficientnet-lite0"))
    return replace(options, weights=weights)


def test_weights_are_kept_under_their_own_name_until_the_training_has_ended(tmp_path):
    run, weights = tmp_path / "run", tmp_path / "mine.weights.h5"
    weights.write_bytes(b"weights")
    run.mkdir()
    (run / "backbone.onnx").write_bytes(b"graph")
    (run / "split.csv").write_bytes(b"split")
    assert kept_weights(run, str(weights)) == str(weights)
    keep_beginning(run, begins_with(weights))
    weights.unlink()
    copy = kept_weights(run, str(weights))
    # As when it is resumed.
    keep_beginning(run, begins_with(run / "weights" / "mine.weights.h5"))
    assert copy == str(run / "weights" / "mine.weights.h5")
    assert (run / "weights" / "mine.weights.h5").read_bytes() == b"weights"
    drop_beginning(run)
    assert [path.name for path in run.iterdir()] == ["split.csv"]
    assert kept_weights(run, str(weights)) == str(weights)


def test_names_of_weights_are_no_files(tmp_path):
    assert [kept_weights(tmp_path, name) for name in ("imagenet", "none", None)] == ["imagenet", "none", None]


def test_a_file_of_weights_that_went_away_is_one_sentence_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the weights .*gone\.h5: got no such file"):
        keep_beginning(tmp_path, begins_with(tmp_path / "gone.h5"))
    assert list((tmp_path / "weights").iterdir()) == []
