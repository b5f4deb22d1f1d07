"""Addresses as they are shown: no secret in them, and still told apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.live.masking import masked

# Nothing that ends a part of a URL; and not so short, or so plain, that it stands in the rest of the URL by chance.
secrets = st.text(st.characters(exclude_characters="/@:?#&;=", codec="ascii"), min_size=1, max_size=20).map(
    "s3C{}t".format
)
PLACES = [
    "rtsp://user:{}@192.168.0.2:554/live",
    "http://cam/v?pwd={}",
    "http://cam/v?user=admin&PassWord={}&channel=1",
    "http://cam?token={}",
    "http://cam:80?channel=1;auth={}",
    "http://cam/v?{}",
    "rtsp://cam/user=admin_password={}_channel=1_stream=0.sdp?real_stream",
    "rtsp://cam/live;key={}",
    "rtmp://cam/live/{}",
    "rtmps://cam:443/app/{}?a=b",
    "http://cam/v#{}",
    "http://cam/v?channel={}aaaaaaaaaaaa",
    # Letters and digits as long as a key.
    "rtsps://cam:7441/{}0123456789abcdef?enableSrtp",
    "https://{}0123456789abcdef@cam/v",
    # No port, be it for the password, or for the host that was forgotten.
    "rtsp://user:1234/{}@cam:554/live",
    "rtsp://user:{}",
    "rtsp://user:{}/live",
    "http://cam:80/user/admin/password/{}/video.mjpg",
]


@pytest.mark.parametrize("place", PLACES)
@given(secrets)
def test_no_secret_is_shown_wherever_it_stands(place, secret):
    # Only what may stand in a key is known by its length.
    if "0123456789abcdef" in place:
        secret = "".join(character for character in secret if character.isalnum())
    url = place.format(secret)
    shown = masked(url)
    assert secret not in shown
    assert "***" in shown
    assert shown.startswith(url.partition("://")[0] + "://")
    # What is shown once is shown so again.
    assert masked(shown) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.2:554/live", "rtsp://admin:***@10.0.0.2:554/live"),
        ("rtsp://admin@10.0.0.2/live", "rtsp://admin@10.0.0.2/live"),
        ("http://host/path:with@signs", "http://host/path:with@signs"),
        ("http://host:8080/v", "http://host:8080/v"),
        ("http://host:8080/v?at=me@home", "http://host:8080/v?at=***"),
        ("http://[::1]:8080/v", "http://[::1]:8080/v"),
        ("http://[fe80::1]/users/3", "http://[fe80::1]/users/3"),
        ("rtsp://cam/Streaming/Channels/101", "rtsp://cam/Streaming/Channels/101"),
        ("rtsp://cam/cam/realmonitor?channel=1&subtype=0", "rtsp://cam/cam/realmonitor?channel=1&subtype=0"),
        ("http://cam/axis-cgi/mjpg/video.cgi?resolution=640x480", "http://cam/axis-cgi/mjpg/video.cgi?resolution=640x480"),
        ("rtsp://u:p@[::1]:554/a?channel=2&pwd=x", "rtsp://u:***@[::1]:554/a?channel=2&pwd=***"),
        ("rtmp://cam:1935/live", "rtmp://cam:1935/live"),
        ("http://cam/?", "http://cam/?"),
        ("/dev/video0", "/dev/video0"),
        ("clips/front door?.mp4", "clips/front door?.mp4"),
        ("0", "0"),
    ],
)  # fmt: skip
def test_what_tells_cameras_apart_is_shown(url, shown):
    assert masked(url) == shown


@given(st.text(max_size=60))
def test_any_text_is_shown_somehow(text):
    for url in (text, f"rtsp://{text}", f"rtsp://u:p@h/{text}"):
        assert isinstance(masked(url), str)
