"""The options of a training that goes on: the run decides, and what contradicts it is refused, however usual it is."""

import json

import pytest

from edgeclf.runtime.errors import UsageError
from edgeclf.training.options import TrainOptions
from edgeclf.training.run.earlier import open_earlier

from .test_folder import write_run


@pytest.fixture
def run(tmp_path):
    folder = write_run(tmp_path / "run")
    options = TrainOptions(architecture="seed-cnn").to_json()
    (folder / "run.json").write_text(json.dumps({"data_root": "/data", "options": options}))
    return str(folder)


def test_the_default_network_named_with_another_ones_run_is_refused(run):
    assert open_earlier(TrainOptions(from_run=run))[0].architecture == "seed-cnn"
    assert open_earlier(TrainOptions(from_run=run, architecture="seed-cnn"))[0].architecture == "seed-cnn"
    with pytest.raises(UsageError, match=r"--arch does not go with --from: got efficientnet-lite0, expected seed-cnn"):
        open_earlier(TrainOptions(from_run=run, architecture="efficientnet-lite0"))


def test_without_a_run_the_network_is_the_default_one():
    assert open_earlier(TrainOptions())[0].architecture == "efficientnet-lite0"
    assert open_earlier(TrainOptions(backbone="net.onnx"))[0].architecture is None
