"""What systemd is told of cameras, over a real socket."""

import os
import socket
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeclf.runtime.live.results import CameraStatistics
from edgeclf.toolkit.infer.service_manager import ServiceManager

from ...clocks import FakeClock
from ..colours import write_video

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no such sockets")


class Manager:
    """A socket as systemd has it, and the environment that names it; as an abstract one where that is asked for."""

    def __init__(self, folder, *, is_abstract):
        name = f"edgeclf-test-{os.getpid()}" if is_abstract else str(Path(folder) / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name}" if is_abstract else name)
        self._socket.settimeout(0)
        self.environment = {"NOTIFY_SOCKET": f"@{name}" if is_abstract else name}

    def told(self):
        """What has come since the last call."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(1000).decode())
            except BlockingIOError:
                return found

    def close(self):
        self._socket.close()


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux"))])
def manager(request):
    # Short: a socket's path has at most 108 bytes.
    with tempfile.TemporaryDirectory() as folder:
        opened = Manager(folder, is_abstract=request.param)
        yield opened
        opened.close()


def camera(captured=0, taken=0, done=0, skipped=0):
    return SimpleNamespace(
        statistics=CameraStatistics(captured, taken, 0, skipped=skipped), figures=SimpleNamespace(done=done)
    )


def test_a_camera_is_told_of_from_its_beginning_to_its_end(run_edgeclf, colour_model, manager, tmp_path):
    video = write_video(tmp_path / "v.avi", ["red"] * 10)
    environment = {**os.environ, **manager.environment, "WATCHDOG_USEC": "60000000"}
    done = run_edgeclf("infer", colour_model, "--camera", video, "--json", env=environment)
    assert done.returncode == 0, done.stderr
    first, *between, last = manager.told()
    assert (first, set(between), last) == ("READY=1", {"WATCHDOG=1"}, "STOPPING=1")


def test_the_watchdog_is_told_while_frames_are_classified_and_while_none_come(manager):
    clock = FakeClock()
    service = ServiceManager({**manager.environment, "WATCHDOG_USEC": "60000000"}, clock)
    frames = 0
    for came in [True] * 4 + [False] * 8 + [True] * 2:
        frames += came
        service.watch({"cam": camera(captured=frames, taken=frames, done=frames)})
        assert manager.told() == ["WATCHDOG=1"]
        # Not more often than it has to be.
        service.watch({"cam": camera(captured=frames, taken=frames, done=frames)})
        assert manager.told() == []
        clock.advance(15)


@pytest.mark.parametrize(
    "hanging",
    [
        # In the model, which has a frame; and behind it, in what takes the results.
        lambda second: camera(captured=10 + second, taken=10, done=9),
        lambda second: camera(captured=10, taken=10, done=9),
        lambda second: camera(captured=10 + second, taken=10, done=10),
    ],
)
def test_the_watchdog_is_not_told_while_frames_come_and_none_is_classified(manager, hanging):
    clock = FakeClock()
    service = ServiceManager({**manager.environment, "WATCHDOG_USEC": "60000000"}, clock)
    others = {"other": camera()}
    told = []
    for second in range(120):
        service.watch({"cam": hanging(second), **others})
        told += [second] * len(manager.told())
        clock.advance(1)
    # A frame may take long, but not half of the time; systemd ends it after the whole.
    assert told == [0, 15]
    service.watch({"cam": camera(captured=200, taken=200, done=200), **others})
    assert manager.told() == ["WATCHDOG=1"]


def test_frames_that_are_not_wanted_are_no_work(manager):
    clock = FakeClock()
    service = ServiceManager({**manager.environment, "WATCHDOG_USEC": "60000000"}, clock)
    for frames in range(10):
        service.watch({"cam": camera(captured=1 + frames, taken=1, done=1, skipped=frames)})
        assert manager.told() == ["WATCHDOG=1"]
        clock.advance(15)


def test_without_a_watchdog_or_for_another_process_it_is_not_told(manager):
    for more in ({}, {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid() + 1)}, {"WATCHDOG_USEC": "soon"}):
        service = ServiceManager({**manager.environment, **more})
        service.watch({"cam": camera()})
        assert manager.told() == []
        service.ready()
        assert manager.told() == ["READY=1"]


def test_a_service_manager_that_is_not_there_is_no_error():
    for environment in ({}, {"NOTIFY_SOCKET": "/nowhere/notify"}):
        service = ServiceManager({**environment, "WATCHDOG_USEC": "60000000"})
        service.ready()
        service.watch({"cam": camera()})
        service.stopping()
