import json
import os

import onnxruntime
import pytest

from edgeclf.runtime.session.known_traps import Machine, known_traps


def test_every_device_is_explained(run_edgeclf):
    done = run_edgeclf("info", "--devices", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    states = {item["device"]: item for item in document["devices"]}
    assert states["cpu"]["state"] == "works"
    assert document["providers"] == onnxruntime.get_available_providers()
    for item in document["devices"]:
        assert item["state"] in {"works", "fails", "absent"}
        assert (item["state"] == "works") == (item["reason"] == "")
        assert item["state"] == "works" or item["do"]
    table = run_edgeclf("info", "--devices")
    assert table.returncode == 0
    assert "--device auto takes" in table.stdout
    for device in states:
        assert f"│ {device} " in table.stdout


def test_two_onnxruntimes_at_once_are_named(run_edgeclf, tmp_path):
    for name in ("onnxruntime", "onnxruntime_gpu"):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n"
        (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(metadata)
    paths = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = run_edgeclf("info", "--devices", "--json", env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0
    assert "warning: onnxruntime and onnxruntime-gpu are both installed" in done.stderr
    assert ["onnxruntime", "onnxruntime-gpu"] in json.loads(done.stdout)["clashing_packages"]


def install(folder, name, version):
    (folder / f"{name.replace('-', '_')}-{version}.dist-info").mkdir()
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA").write_text(text)


PI = Machine("Raspberry Pi 4 Model B Rev 1.4", "aarch64", frozenset({"asimd", "fp"}))
NEW_ARM = Machine("Apple M4", "arm64", frozenset())
SME = Machine("a server", "aarch64", frozenset({"asimd", "sme", "sve"}))
OLD_ARM = Machine("Neoverse-N1", "aarch64", frozenset({"asimd", "atomics"}))
PC = Machine("an Intel", "x86_64", frozenset({"avx2"}))


@pytest.mark.parametrize(
    ("package", "version", "machine", "words"),
    [
        ("onnxruntime", "1.21.0", PI, "illegal instruction on a Raspberry Pi 4"),
        ("onnxruntime", "1.21.1", OLD_ARM, None),
        ("onnxruntime", "1.20.1", PI, None),
        ("onnxruntime", "1.22.0", PI, None),
        ("onnxruntime", "1.23.2", SME, None),
        ("onnxruntime", "1.24.0", SME, "memory of every frame"),
        ("onnxruntime-gpu", "1.26.3", NEW_ARM, "memory of every frame"),
        ("onnxruntime", "1.25.1", OLD_ARM, None),
        ("onnxruntime", "1.25.1", PC, None),
        ("onnxruntime", "1.27.0", SME, None),
        ("opencv-python", "4.11.0.86", PC, "crafted JPEG"),
        ("opencv-python-headless", "4.12.0.88", PC, None),
    ],
)
def test_the_traps_of_a_version_are_named_where_they_show(tmp_path, monkeypatch, package, version, machine, words):
    install(tmp_path, package, version)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    traps = known_traps(machine)
    assert len(traps) == (words is not None)
    if words is not None:
        assert words in traps[0]
        assert traps[0].startswith(f"{package} {version} ")
        assert ": install " in traps[0]


def test_devices_are_described_with_the_traps_of_their_versions(run_edgeclf, tmp_path):
    install(tmp_path, "opencv-contrib-python", "4.10.0.84")
    paths = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = run_edgeclf("info", "--devices", "--json", env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0
    (trap,) = json.loads(done.stdout)["traps"]
    assert trap.startswith("opencv-contrib-python 4.10.0.84 can be brought down")
    assert f"warning: {trap}" in done.stderr


def test_it_is_a_model_or_the_devices(run_edgeclf, colour_model):
    for arguments in ([], [colour_model, "--devices"]):
        done = run_edgeclf("info", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "expected a model or --devices" in done.stderr
    done = run_edgeclf("info", "--devices", "--fit", "crop")
    assert (done.returncode, done.stdout) == (2, "")
    assert "options of a model file do nothing with --devices" in done.stderr


@pytest.mark.parametrize("command", ["bench", "infer", "evaluate", "verify", "compare"])
def test_a_device_that_is_not_there_is_exit_code_5_with_the_reason(run_edgeclf, colour_model, command, tmp_path):
    device = next(
        name
        for name, provider in (("cuda", "CUDAExecutionProvider"), ("coreml", "CoreMLExecutionProvider"))
        if provider not in onnxruntime.get_available_providers()
    )
    import cv2
    import numpy as np

    for label in ("red", "green", "blue"):
        (tmp_path / "data" / label).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "data" / label / "a.png"), np.zeros((9, 9, 3), np.uint8))
    more = {"bench": [], "infer": [tmp_path / "data"], "evaluate": [tmp_path / "data"]}
    more["compare"] = [colour_model, tmp_path / "data"]
    against = [tmp_path / "data", "--against", colour_model]
    done = run_edgeclf(command, colour_model, *more.get(command, against), "--device", device)
    assert (done.returncode, done.stdout) == (5, "")
    assert f"cannot run on device {device}: got an ONNX Runtime build with" in done.stderr
    assert "Traceback" not in done.stderr


def test_options_of_the_device_are_read(run_edgeclf, colour_model):
    quick = ("bench", colour_model, "--duration", "0", "--min-queries", "1", "--threads", "1")
    assert run_edgeclf(*quick, "--device", "cpu", "--provider-option", "nonsense").returncode == 2
    assert run_edgeclf(*quick, "--provider-option", "a=b").returncode == 2
    assert run_edgeclf(*quick, "--device", "cpu", "--engine-cache", "x").returncode == 2


def test_a_file_knows_how_many_images_it_has_seen(run_edgeclf, make_colour_model, tmp_path):
    from edgeclf.training.data.dataset import Sample
    from edgeclf.training.data.seen_images import record_images

    splits = ("train", "val", "train", "test")
    recorded = record_images([Sample(f"{n}.png", "red", its, f"{n:032x}"[::-1]) for n, its in enumerate(splits)])
    model = make_colour_model(tmp_path / "model.onnx", spec_changes={"seen_images": recorded})
    done = run_edgeclf("info", model)
    assert done.returncode == 0, done.stderr
    assert "2 training and 1 validation images" in done.stdout
    assert json.loads(run_edgeclf("info", model, "--json").stdout)["spec"]["seen_images"] == recorded
