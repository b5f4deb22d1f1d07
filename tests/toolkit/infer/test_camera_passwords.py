"""Passwords of cameras: given apart from the address, sent to the camera, and shown nowhere."""

import sys

import pytest

from edgeclf.runtime.errors import UsageError
from edgeclf.toolkit.infer.camera_passwords import PASSWORD_VARIABLE, camera_passwords

from ..colours import paced, picture

URL = "rtsp://eve@cam/live"


def test_a_file_has_one_a_line_and_the_variable_stands_in_for_it(tmp_path):
    path = tmp_path / "passwords"
    path.write_bytes(b"\xef\xbb\xbf one \r\n\ntwo")
    environment = {PASSWORD_VARIABLE: "three"}
    # Blanks may be part of it.
    assert camera_passwords(path, [URL], environment) == [" one ", "two"]
    assert camera_passwords(None, [URL], environment) == ["three"]
    assert camera_passwords(None, ["0", "rtsp://eve:own@cam/"], environment) == []
    assert camera_passwords(None, [URL], {}) == []


@pytest.mark.parametrize(
    ("data", "words"), [(None, "no such file"), (b"", "an empty file"), (b"\n\r\n", "an empty file"), (b"\xff\xfes3cret", "no text")]
)  # fmt: skip
def test_what_holds_no_password_is_refused(tmp_path, data, words):
    path = tmp_path / "passwords"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match=words) as caught:
        camera_passwords(path, [URL], {})
    assert "s3cret" not in str(caught.value)


def test_the_camera_gets_the_password_and_nobody_else_does(run_edgeclf, colour_model, stream_server, tmp_path):
    (tmp_path / "password").write_text("s3cret/&\n")
    with stream_server(lambda _: paced([picture("red")] * 1000, 0.02)) as server:
        address = f"{server.url}?user=admin&pwd={{password}}&channel=1"
        receiver = (
            f"{sys.executable} -c 'import sys; open(sys.argv[1], \"a\").write(sys.stdin.read())' {tmp_path / 'told'}"
        )
        done = run_edgeclf(
            "infer", colour_model, "--camera", address, "--camera-password-file", tmp_path / "password", "--json",
            "--max-frames", 5, "--events", tmp_path / "events.jsonl", "--log-every", 0.05, "--on-event", receiver,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert server.paths[0].endswith("?user=admin&pwd=s3cret%2F%26&channel=1")
        assert done.stdout.count(f'"{server.url}?user=***&pwd=***&channel=1"') == 5
        events = (tmp_path / "events.jsonl").read_text()
        assert "pwd=***" in events
        assert "s3cret" not in done.stdout + done.stderr + events
        # In the address itself it is not shown either.
        done = run_edgeclf("infer", colour_model, "--camera", f"{server.url}?pwd=s3cret", "--json", "--max-frames", 1)
        assert "s3cret" not in done.stdout + done.stderr
    done = run_edgeclf("infer", colour_model, "--camera", f"{server.url}?pwd=s3cret", "--reconnects", 0)
    assert (done.returncode, "s3cret" in done.stderr, "pwd=***" in done.stderr) == (3, False, True)


def test_passwords_that_no_camera_takes_are_refused(run_edgeclf, colour_model, tmp_path):
    (tmp_path / "password").write_text("s3cret")
    done = run_edgeclf(
        "infer", colour_model, "--camera", "rtsp://a:b@c/", "--camera-password-file", tmp_path / "password"
    )
    assert done.returncode == 2
    assert "passwords do not go with the cameras: got 1 for 0 addresses" in done.stderr
    done = run_edgeclf("infer", colour_model, tmp_path, "--camera-password-file", tmp_path / "password")
    assert (done.returncode, "--camera-password-file is for cameras" in done.stderr) == (2, True)
