"""Addresses as they are shown: no secret in them, and still told apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.live.masking import masked, masked_attempt

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
    # As escapes, and behind any other sign.
    "rtsp://user%3A{}@cam/live",
    "rtsp://user%3a{}%40cam/live",
    "rtsp://user@{}@cam/live",
    "rtsp://cam/live%3Fpwd%3D{}",
    "rtsp://cam/p%61ssword/{}/live",
    "rtsp://cam/PASSWORD/{}/live",
    "rtsp://cam/user_admin_password_{}_channel_1",
    "http://cam/token-{}.mjpg",
    "http://cam/live|{}",
    "http://cam/bot1:{}/send",
    "http://cam/admin/{}/live",
    "http://cam/live?rtsp://me:{}=1",
    # A user and a password in the path, of an address that another server is asked for.
    "http://cam/rtsp://me:{}@other/live",
    "http://cam/rtsp://me:a/{}/b@other/live",
    "rtsp://user:word@cam/{}@other/live",
    # Names of harmless values say what these look like.
    "http://cam/v?size={}",
    "http://cam/v?channel=a{}",
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
        ("http://host/path:with@signs", "http://host/***"),
        ("http://host/me@work/live", "http://host/***/live"),
        ("rtsp://eve%20smith@cam/live;x", "rtsp://eve%20***@cam/live;***"),
        ("rtsp://cam/onvif/user-interface/keys/Profile_1", "rtsp://cam/onvif/user-***/keys/Profile_1"),
        ("rtmp://cam/bcs/channel0_main.bcs?channel=0&stream=0&user=me&password=it", "rtmp://cam/bcs/***?channel=0&stream=0&user=***&password=***"),
        ("rtsp://cam/live?codec=h264&fps=29.97&res=1080p", "rtsp://cam/live?codec=h264&fps=29.97&res=1080p"),
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp:/eve:hunter2@cam/x", "rtsp:/***/x"),
        ("eve:hunter2@cam/x", "eve:***@cam/x"),
        ("eve:a/hunter2@cam/x.mp4", "eve:***@cam/x.mp4"),
        ("ftp://eve:hunter2@cam/x.mp4", "ftp://eve:***@cam/x.mp4"),
        ("10.0.0.2/v?pwd=hunter2.mp4", "10.0.0.2/v?pwd=***"),
        ("rtsp:/cam/user:hunter2/x", "rtsp:/cam/user:***/x"),
        (r"rtsp:\\eve:hunter2@cam", "rtsp:***@cam"),
        ("clips/front door.mp4", "clips/front door.mp4"),
        (r"C:\clips\front.mp4", r"C:\clips\front.mp4"),
    ],
)
def test_what_is_nearly_an_address_is_shown_without_its_password(text, shown):
    assert masked_attempt(text) == shown


@given(st.text(max_size=60))
def test_any_text_is_shown_somehow(text):
    for url in (text, f"rtsp://{text}", f"rtsp://u:p@h/{text}"):
        assert isinstance(masked(url), str)
        assert isinstance(masked_attempt(url), str)
