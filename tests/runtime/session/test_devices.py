import signal
import sys

import onnxruntime
import pytest

from edgeclf.runtime import Classifier, DeviceChoice
from edgeclf.runtime.errors import DeviceUnavailableError, ModelFileError, OutputError, UsageError
from edgeclf.runtime.session import device_report
from edgeclf.runtime.session.device_report import PROBE_MODEL, DeviceState, probe_device, probe_devices
from edgeclf.runtime.session.devices import (
    DEVICE_FACTS,
    DEVICES,
    check_placement,
    check_provider,
    node_placement,
    provider_requests,
)
from edgeclf.runtime.session.opening import open_session_from_bytes
from edgeclf.runtime.session.session import ModelSession

AVAILABLE = onnxruntime.get_available_providers()
ABSENT = [name for name, facts in DEVICE_FACTS.items() if facts.provider not in AVAILABLE]


def test_every_device_has_its_facts():
    assert set(DEVICES) == {"auto", *DEVICE_FACTS}
    assert {facts.provider for facts in DEVICE_FACTS.values()} <= set(onnxruntime.get_all_providers())


@pytest.mark.parametrize("name", ABSENT)
def test_a_device_that_is_not_installed_is_no_cpu(colour_model, name):
    for opened in (ModelSession, Classifier):
        with pytest.raises(DeviceUnavailableError, match=f"cannot run on device {name}") as caught:
            opened(colour_model, device=name)
        assert caught.value.exit_code == 5
        assert "--device cpu" in str(caught.value)


@pytest.mark.skipif("CUDAExecutionProvider" not in AVAILABLE, reason="needs onnxruntime-gpu")
def test_onnxruntime_gpu_gives_a_gpu_or_the_reason(colour_model):
    if probe_device("cuda").state == "works":
        assert ModelSession(colour_model, device="cuda").provider == "CUDAExecutionProvider"
        return
    with pytest.raises(DeviceUnavailableError, match=r"driver|is missing|no NVIDIA GPU"):
        ModelSession(colour_model, device="cuda")


@pytest.mark.skipif("OpenVINOExecutionProvider" not in AVAILABLE, reason="needs onnxruntime-openvino")
def test_openvino_runs_and_says_how_many_nodes(colour_model):
    session = ModelSession(colour_model, device=DeviceChoice("openvino", {"device_type": "CPU"}))
    assert session.provider == "OpenVINOExecutionProvider"
    assert session.placement == {"OpenVINOExecutionProvider": 4}


def test_nodes_are_counted_by_provider(colour_model):
    session = ModelSession(colour_model, device="cpu")
    if not hasattr(session._session, "get_provider_graph_assignment_info"):
        assert session.placement is None
    else:
        assert session.placement == {"CPUExecutionProvider": 4}
    assert node_placement(object()) is None


def test_a_provider_that_takes_no_node_is_no_device():
    with pytest.raises(DeviceUnavailableError, match="takes none of its nodes: 7 on CPUExecutionProvider"):
        check_placement(DeviceChoice("openvino"), {"CPUExecutionProvider": 7})
    check_placement(DeviceChoice("openvino"), {"CPUExecutionProvider": 7, "OpenVINOExecutionProvider": 1})
    check_placement(DeviceChoice("openvino"), None)
    check_placement(DeviceChoice("auto"), {"CPUExecutionProvider": 7})


@pytest.mark.parametrize("name", ["tensorrt", "openvino", "coreml", "qnn", "xnnpack"])
def test_a_session_on_another_provider_is_found_out(name):
    with pytest.raises(DeviceUnavailableError, match="fell back to CPUExecutionProvider"):
        check_provider(DeviceChoice(name), ["CPUExecutionProvider"])
    provider = DEVICE_FACTS[name].provider
    assert check_provider(DeviceChoice(name), [provider, "CPUExecutionProvider"]) == provider


def pretend(monkeypatch, *providers):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*providers, "CPUExecutionProvider"])


def test_tensorrt_keeps_its_engines_and_leaves_the_rest_to_cuda(monkeypatch, tmp_path):
    pretend(monkeypatch, "TensorrtExecutionProvider", "CUDAExecutionProvider")
    tensorrt, cuda = provider_requests(DeviceChoice("tensorrt", engine_cache=tmp_path / "engines"))
    assert tensorrt[0] == "TensorrtExecutionProvider"
    assert tensorrt[1]["trt_engine_cache_path"] == str(tmp_path / "engines")
    assert tensorrt[1]["trt_engine_cache_enable"] == "1"
    assert cuda[0] == "CUDAExecutionProvider"
    assert (tmp_path / "engines").is_dir()
    monkeypatch.setenv("EDGECLF_CACHE", str(tmp_path / "cache"))
    assert provider_requests(DeviceChoice("tensorrt"))[0][1]["trt_engine_cache_path"] == str(
        tmp_path / "cache" / "engines"
    )
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        provider_requests(DeviceChoice("tensorrt", engine_cache=tmp_path / "file"))


def test_auto_takes_gpus_first_and_nothing_that_splits_a_network(monkeypatch):
    pretend(monkeypatch, "OpenVINOExecutionProvider", "DmlExecutionProvider", "CUDAExecutionProvider")
    names = [request if isinstance(request, str) else request[0] for request in provider_requests(DeviceChoice("auto"))]
    assert names == ["CUDAExecutionProvider", "DmlExecutionProvider", "CPUExecutionProvider"]


def test_options_of_the_user_win(monkeypatch):
    pretend(monkeypatch, "CUDAExecutionProvider")
    ((_, options),) = provider_requests(
        DeviceChoice("cuda", {"cudnn_conv_algo_search": "EXHAUSTIVE", "device_id": "1"})
    )
    assert options == {"cudnn_conv_algo_search": "EXHAUSTIVE", "device_id": "1"}


def test_settings_that_do_not_go_together_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        DeviceChoice("tpu")
    with pytest.raises(UsageError, match="need a device"):
        DeviceChoice("auto", {"a": "b"})
    with pytest.raises(UsageError, match="belongs to TensorRT"):
        DeviceChoice("cuda", engine_cache=tmp_path)


def test_the_probe_is_a_convolution_that_doubles():
    import onnx

    model = onnx.load_from_string(PROBE_MODEL)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    assert open_session_from_bytes(PROBE_MODEL, threads=1).get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(ModelFileError):
        open_session_from_bytes(PROBE_MODEL[:50], threads=1)


def test_the_report_names_what_works_and_what_to_install():
    report = probe_devices()
    states = {state.device: state for state in report.devices}
    assert list(states) == list(DEVICE_FACTS)
    assert states["cpu"].state == "works"
    assert states["cpu"].seconds > 0
    for name in ABSENT:
        assert states[name].state == "absent"
        assert states[name].do == DEVICE_FACTS[name].package
    assert report.auto == next((name for name in ("cuda", "directml") if states[name].state == "works"), "cpu")
    assert report.version == onnxruntime.__version__


@pytest.mark.parametrize(
    ("working", "auto"),
    [
        ({"cpu", "cuda", "directml"}, "cuda"),
        ({"cpu", "directml", "openvino"}, "directml"),
        ({"cpu", "openvino", "tensorrt"}, "cpu"),
        (set(), "cpu"),
    ],
)
def test_auto_is_the_first_device_of_its_order_that_works(monkeypatch, working, auto):
    pretend(monkeypatch, *(facts.provider for name, facts in DEVICE_FACTS.items() if name != "cpu"))

    def state(device, **_):
        return DeviceState(device, "provider", "works" if device in working else "fails", "", "", 0.1)

    monkeypatch.setattr(device_report, "probe_device", state)
    assert probe_devices().auto == auto


# In the place of the process that opens a device: drivers that do not come back, or take it with them.
@pytest.mark.parametrize(
    ("program", "timeout_s", "reason"),
    [
        ("import time; time.sleep(60)", 1.0, "no answer within 1 s"),
        ("import os; os.kill(os.getpid(), 11)", 30.0, f"ended with signal {int(signal.SIGSEGV)}"),
        ("print('noise'); raise SystemExit(3)", 30.0, "ended with exit code 3"),
    ],
)
def test_a_driver_that_hangs_or_crashes_is_survived(monkeypatch, tmp_path, program, timeout_s, reason):
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable} -S\n{program}\n")
    python.chmod(0o755)
    monkeypatch.setattr(device_report.sys, "executable", str(python))
    state = probe_device("cpu", timeout_s=timeout_s)
    assert state.state == "fails"
    assert reason in state.reason
    assert state.do


def test_a_device_that_nobody_knows_is_a_usage_error():
    with pytest.raises(UsageError):
        probe_device("tpu")
