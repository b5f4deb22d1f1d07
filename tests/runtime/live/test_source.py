"""What names a camera: what is opened, and the name shown."""

import re
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.runtime.live.masking import masked
from edgeclf.runtime.live.source import CameraSource, parse_camera, parse_cameras, takes_password


@pytest.mark.parametrize(
    ("given", "opened"),
    [
        (0, 0), ("1", 1), ("/dev/video7", "/dev/video7"), ("rtsp://a:b@c/d", "rtsp://a:b@c/d"),
        ("http://x/", "http://x/"), ("udp://:1234", "udp://:1234"), ("http://[::1]:80/", "http://[::1]:80/"),
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
    urls = ("http://[::1/", "http://cam:99999/", "rtsp://cam:port/", "https://", "http://:8080/", "rtsp://a\u2100b/")
    for nonsense in ("front door", "-1", "", "ftp://x", -1, "\0", *urls):
        with pytest.raises(UsageError, match="as a camera"):
            parse_camera(nonsense)


@pytest.mark.parametrize(
    "text",
    [
        "rtsp:/eve:hunter2@cam/x",
        "eve:hunter2@cam/x",
        "ftp://eve:hunter2@cam",
        "rtsp://eve:hunter2",
        "ftp://eve:hunter2@cam/clip.mp4",
        "cam/v?user=eve&pwd=hunter2",
    ],
)
def test_what_is_nearly_an_address_is_refused_without_its_password(text):
    with pytest.raises((UsageError, SourceError)) as refused:
        parse_camera(text)
    assert "hunter2" not in str(refused.value)
    assert "***" in str(refused.value)


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
    ("given", "opened", "shown"),
    [
        ("RTSP://cam/Live", "rtsp://cam/Live", "RTSP://cam/Live"),
        ("Http://Cam:8080/v?A=b@c", "http://Cam:8080/v?A=b@c", "Http://Cam:8080/v?A=***"),
        ("rtsp://admin:pa#ss@cam:554/live", "rtsp://admin:pa%23ss@cam:554/live", "rtsp://admin:***@cam:554/live"),
        ("rtsp://admin:a?b@c@cam/live", "rtsp://admin:a%3Fb%40c@cam/live", "rtsp://admin:***@cam/live"),
        ("rtsp://admin:a/b#c@cam/live", "rtsp://admin:a%2Fb%23c@cam/live", "rtsp://admin:***@cam/live"),
        ("rtsp://admin:100%@cam/live", "rtsp://admin:100%25@cam/live", "rtsp://admin:***@cam/live"),
        ("rtsp://admin:p%40ss@cam/live", "rtsp://admin:p%40ss@cam/live", "rtsp://admin:***@cam/live"),
        ("rtsp://admin@cam/live", "rtsp://admin@cam/live", "rtsp://admin@cam/live"),
        ("http://cam?to=a@b", "http://cam?to=a@b", "http://cam?to=***"),
        ("http://cam:80?to=a@b", "http://cam:80?to=a@b", "http://cam:80?to=***"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b", "http://[::1]:80/***"),
    ],
)
def test_urls_as_people_write_them(given, opened, shown):
    camera = parse_camera(given)
    assert (camera.text, camera.opened, camera.name) == (given, opened, shown)
    # An opened URL stays what it is.
    assert parse_camera(opened).opened == opened


@given(
    st.text(st.characters(exclude_characters="/@%", codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=20)
)
def test_any_password_reaches_the_camera_whole(password):
    # Digits and then a question mark could be a port and a query.
    assume(not re.match(r"\d+[?#]", password))
    opened = parse_camera(f"rtsp://user:{password}@192.168.0.2:554/live").opened
    parts = urlsplit(opened)
    assert (parts.username, unquote(parts.password), parts.hostname, parts.port) == (
        "user",
        password,
        "192.168.0.2",
        554,
    )


@pytest.mark.parametrize(
    ("given", "opened", "shown"),
    [
        ("rtsp://eve@cam:554/live", "rtsp://eve:p%40%2F%23%20%3As@cam:554/live", "rtsp://eve@cam:554/live"),
        ("http://cam/v?usr=eve&pwd={password}", "http://cam/v?usr=eve&pwd=p%40%2F%23%20%3As", "http://cam/v?usr=***&pwd=***"),
        ("rtsp://{password}@cam/live", "rtsp://p%40%2F%23%20%3As@cam/live", "rtsp://{password}@cam/live"),
    ],
)  # fmt: skip
def test_a_password_from_elsewhere_goes_into_the_address_and_into_no_name(given, opened, shown):
    (camera,) = parse_cameras([given], ["p@/# :s"])
    assert (camera.text, camera.opened, camera.name) == (given, opened, shown)


def test_one_password_for_all_or_one_for_each_address_that_takes_one():
    urls = ["rtsp://eve@one/", 0, "rtsp://eve:own@two/", "http://three/{password}"]
    assert [camera.opened for camera in parse_cameras(urls, ["x"])] == [
        "rtsp://eve:x@one/", 0, "rtsp://eve:own@two/", "http://three/x",
    ]  # fmt: skip
    assert [camera.opened for camera in parse_cameras(urls, ["x", "y"])][::3] == ["rtsp://eve:x@one/", "http://three/y"]
    assert [takes_password(url) for url in urls] == [True, False, False, True]
    for cameras, passwords in ((urls, ["x", "y", "z"]), ([0], ["x"]), (["rtsp://eve:own@two/"], ["x"])):
        with pytest.raises(UsageError, match="passwords do not go with the cameras") as caught:
            parse_cameras(cameras, passwords)
        assert not any(f"{word!r}" in str(caught.value) for word in ("x", "own"))
    with pytest.raises(UsageError, match="no password for http://three/"):
        parse_cameras(urls)
    # A user without a password, as some cameras have them.
    assert parse_cameras(["rtsp://eve@one/"])[0].opened == "rtsp://eve@one/"
