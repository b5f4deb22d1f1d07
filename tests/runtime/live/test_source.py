"""What names a camera: what is opened, and the name shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.runtime.live.source import CameraSource, masked, parse_camera, parse_cameras


@pytest.mark.parametrize(
    ("given", "opened"),
    [
        (0, 0), ("1", 1), ("/dev/video7", "/dev/video7"), ("rtsp://a:b@c/d", "rtsp://a:b@c/d"),
        ("http://x/", "http://x/"),
    ],
)  # fmt: skip
def test_what_names_a_camera(given, opened):
    assert parse_camera(given).opened == opened


def test_a_file_is_a_camera_and_a_missing_one_is_said_to_be(tmp_path):
    video = tmp_path / "v.avi"
    video.touch()
    assert parse_camera(str(video)).opened == video
    with pytest.raises(SourceError, match="no such file"):
        parse_camera(str(tmp_path / "w.mp4"))
    for nonsense in ("front door", "-1", "", "ftp://x", -1, "\0"):
        with pytest.raises(UsageError, match="as a camera"):
            parse_camera(nonsense)


@given(st.text(st.characters(exclude_characters="/@:", codec="ascii"), min_size=1, max_size=20))
def test_no_password_is_shown(password):
    shown = masked(f"rtsp://user:{password}@192.168.0.2:554/live")
    assert shown == "rtsp://user:***@192.168.0.2:554/live"
    assert masked("rtsp://192.168.0.2:554/live") == "rtsp://192.168.0.2:554/live"


def test_a_camera_is_named_as_it_was_given(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").touch()
    monkeypatch.chdir(tmp_path)
    for text, opened in (("./clip.mp4", tmp_path / "clip.mp4"), ("00", 0), ("rtsp://a:b@c/d", "rtsp://a:b@c/d")):
        source = parse_camera(text)
        assert source.name == masked(text)
        assert source.opened == opened or source.opened.resolve() == opened
        assert parse_camera(source) is source
    assert parse_camera(0).name == "0"


def test_cameras_that_differ_in_their_passwords_only_have_names_of_their_own():
    urls = [f"rtsp://eve:{password}@cam/live" for password in ("one", "two", "three")]
    cameras = parse_cameras(urls)
    shown = "rtsp://eve:***@cam/live"
    assert [camera.name for camera in cameras] == [shown, f"{shown} (2)", f"{shown} (3)"]
    assert [camera.opened for camera in cameras] == urls


@pytest.mark.parametrize("twice", [("0", "0"), ("0", "00"), ("rtsp://a:b@c/d", "rtsp://a:b@c/d"), ("v.mp4", "./v.mp4")])
def test_a_camera_that_is_named_twice_is_refused(twice, tmp_path, monkeypatch):
    (tmp_path / "v.mp4").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="named twice") as caught:
        parse_cameras(twice)
    assert "a:b" not in str(caught.value)


@given(st.integers(0, 10_000))
def test_camera_numbers(number):
    assert parse_camera(number) == parse_camera(str(number)) == CameraSource(str(number), number, str(number))


@pytest.mark.parametrize("source", ["http://h/v", "https://h/v", "rtsp://u:p@h:554/s", "/dev/video2"])
def test_camera_places(source):
    assert parse_camera(source).opened == source


@pytest.mark.parametrize("source", ["", "-1", "1.5", "video.txt", "ftp://h/v", "front door"])
def test_what_is_no_camera(source):
    with pytest.raises(UsageError, match="as a camera"):
        parse_camera(source)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.2:554/live", "rtsp://admin:***@10.0.0.2:554/live"),
        ("http://host/path:with@signs", "http://host/path:with@signs"),
        ("http://host:8080/v", "http://host:8080/v"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_a_camera_is_shown_without_its_password(url, shown):
    assert masked(url) == shown
