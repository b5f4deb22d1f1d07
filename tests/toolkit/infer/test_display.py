"""A display that does not answer is one sentence, as one is that opens no window."""

import subprocess

import pytest

from edgeclf.runtime.errors import UnavailableError
from edgeclf.toolkit.infer import windows


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import time; time.sleep(600)", "a display (:77) that opened no window within 0.2 s"),
        ("raise SystemExit(1)", "a display (:77) that opens no window"),
    ],
)
def test_a_display_that_opens_no_window_is_one_sentence(monkeypatch, program, words):
    real = subprocess.run
    monkeypatch.setenv("DISPLAY", ":77")
    monkeypatch.setattr(windows.cv2, "getBuildInformation", lambda: "GUI: GTK3")
    monkeypatch.setattr(windows, "_TRIAL_S", 0.2 if "sleep" in program else 60)
    monkeypatch.setattr(windows.subprocess, "run", lambda line, **rest: real([line[0], "-c", program], **rest))
    with pytest.raises(UnavailableError) as refused:
        windows.check_display()
    assert f"cannot show a window: got {words}, expected a desktop session;" in str(refused.value)
