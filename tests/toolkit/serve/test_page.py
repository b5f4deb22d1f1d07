"""The page in a browser: it moves, it complains about nothing, it says what is lost and comes back."""

import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from edgeclf.runtime import Smoothing

pytestmark = pytest.mark.slow

LABELS = ("red", "green", "blue")
TOKEN = "a-token-of-this-test"
PAGE = Path(__file__).parents[3] / "toolkit" / "serve" / "page"
# Copied before they are read: a canvas that is read itself is moved off the graphics card, which the browser remarks on.
COLOURS = """[...document.querySelectorAll(".frame")].map((canvas) => {
  const copy = window.copied ??= new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  copy.clearRect(0, 0, 1, 1);
  copy.drawImage(canvas, 0, 0, canvas.width, canvas.height, 0, 0, 1, 1);
  const rgb = [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);
  return Math.max(...rgb) > 100 ? ["red", "green", "blue"][rgb.indexOf(Math.max(...rgb))] : null;
})"""
DRAWN = """(({width, height}, canvas) => canvas.getContext("2d").getImageData(0, 0, width, height).data.some(Boolean))(
  document.querySelector(".plot"), document.querySelector(".plot"))"""


def colours_seen(browser, cameras):
    """Which colours each camera's picture had, until it has had all or a while is over."""
    seen = [set() for _ in range(cameras)]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not all(colours >= set(LABELS) for colours in seen):
        for colours, colour in zip(seen, browser.value(COLOURS), strict=True):
            colours.add(colour)
        time.sleep(0.05)
    return [colours - {None} for colours in seen]


def test_the_page_shows_a_moving_stream_and_has_nothing_to_complain_of(start_preview, make_result, publishing, browser):
    preview = start_preview()
    preview.on_event({"event": "enter", "source": "0", "label": "<b>bold</b>"})
    with publishing(lambda number: preview.on_result(make_result(LABELS[number // 10 % 3], number))):
        browser.open(preview.url)
        browser.wait_for("document.querySelector('#connection').textContent === 'live'")
        assert colours_seen(browser, 1) == [set(LABELS)]
        for label in LABELS:
            browser.wait_for(f"document.querySelector('.answer .label').textContent === '{label}'")
        assert browser.value("document.querySelector('.confidence').textContent") == "80.0 %"
        assert browser.value("document.querySelectorAll('.classes li').length") == 3
        browser.wait_for("document.querySelector('.plot').getAttribute('aria-label').includes('frame age 9.0 ms')")
        assert browser.value(DRAWN)
        # Whatever an event holds is text.
        assert "enter, label <b>bold</b>" in browser.value("document.querySelector('#events').textContent")
        assert browser.complaints() == []
        assert {urlsplit(url).netloc for url in browser.requested()} == {urlsplit(preview.url).netloc}


def test_a_smoothed_label_is_told_from_this_frames_bars(start_preview, make_result, browser):
    preview = start_preview()
    browser.open(preview.url)
    smoothing = Smoothing(time_constant_s=1.5, margin=0.1)
    preview.on_result(make_result("red", smoothed_label="green", smoothing=smoothing))
    browser.wait_for("document.querySelector('.answer .label')?.textContent === 'green'")
    assert browser.value("document.querySelector('.smoothing').innerText") == "smoothed: mean over 1.5 s, margin 0.1"
    assert browser.value("document.querySelector('.caption').innerText") == "this frame"
    assert browser.value("document.querySelector('.classes .name').textContent") == "red"
    picture = browser.value("document.querySelector('.frame').getAttribute('aria-label')")
    assert picture == "Newest image of Camera 0: green, 25.0 %, smoothed: mean over 1.5 s, margin 0.1"
    # Without smoothing there is nothing to tell apart.
    preview.on_result(make_result("blue", 1))
    browser.wait_for("document.querySelector('.answer .label')?.textContent === 'blue'")
    assert browser.value("document.querySelector('.smoothing').innerText") == ""
    # A frame that cannot be read has no bars.
    preview.on_result(make_result(None, 2))
    browser.wait_for("document.querySelector('.caption').hidden")
    assert browser.complaints() == []


def test_a_model_that_takes_the_place_of_another_is_shown(start_preview, browser):
    model = {"file": "first.onnx", "labels": ["a", "b"]}
    preview = start_preview(model=lambda: dict(model))
    browser.open(preview.url)
    browser.wait_for("document.querySelector('#model').textContent === 'first.onnx · 2 classes'")
    model.update(file="second.onnx", labels=["a", "b", "c"])
    browser.wait_for("document.querySelector('#model').textContent === 'second.onnx · 3 classes'")
    assert browser.complaints() == []


def test_a_lost_camera_and_a_lost_connection_are_said_and_mended(start_preview, make_result, publishing, browser):
    from edgeclf.toolkit.serve.server import preview_server

    def publish_to(preview):
        return publishing(lambda number: preview.on_result(make_result("green", number)))

    state = "document.querySelector('#connection').textContent"
    overlay = "document.querySelector('.lost').hidden ? '' : document.querySelector('.lost').textContent"
    with preview_server(":0", None, model=dict, cameras=["0"], stale_after_s=2) as preview:
        url = preview.url
        browser.open(url)
        browser.wait_for(f"{state} === 'waiting for a camera'")
        assert browser.value(overlay) == "Waiting for the first frame"
        with publish_to(preview):
            browser.wait_for(f"{state} === 'live'")
            assert browser.value(overlay) == ""
        browser.wait_for(f"{state} === 'camera lost'")
        assert "No frame for" in browser.value(overlay)
        with publish_to(preview):
            browser.wait_for(f"{state} === 'live'")
    browser.wait_for(f"{state} === 'connection lost'")
    assert browser.value(overlay) == "Connection lost"
    with (
        preview_server(f":{urlsplit(url).port}", None, model=lambda: {"file": "another.onnx"}) as preview,
        publish_to(preview),
    ):
        browser.wait_for(f"{state} === 'live'")
        browser.wait_for("document.querySelector('#model').textContent === 'another.onnx'")
        assert browser.value("document.querySelectorAll('.camera').length") == 1
        browser.wait_for(COLOURS + "[0] === 'green'")


def test_many_cameras_all_move_within_the_connections_of_a_browser(start_preview, make_result, publishing, browser):
    count = 9
    preview = start_preview(cameras=[str(number) for number in range(count)])

    def publish(number):
        for camera in range(count):
            preview.on_result(make_result(LABELS[(number // 15 + camera) % 3], number, camera=str(camera)))

    with publishing(publish):
        browser.open(preview.url)
        browser.wait_for(f"document.querySelectorAll('.camera[data-state=live]').length === {count}")
        assert colours_seen(browser, count) == [set(LABELS)] * count
        assert browser.complaints() == []


def test_the_first_visit_with_the_token_leaves_none_in_the_address(start_preview, make_result, publishing, browser):
    preview = start_preview("0.0.0.0:0", TOKEN)
    url = f"http://127.0.0.1:{urlsplit(preview.url).port}/"
    with publishing(lambda number: preview.on_result(make_result("blue", number))):
        browser.open(url)
        browser.wait_for("document.body.textContent.includes('401: this preview needs its token')")
        browser.open(f"{url}?token={TOKEN}")
        browser.wait_for("document.querySelector('#connection')?.textContent === 'live'")
        browser.wait_for(COLOURS + "[0] === 'blue'")
        assert browser.value("location.href") == url
        assert browser.value("document.cookie") == ""
        assert browser.complaints() == []
        # From now on without it.
        browser.open(url)
        browser.wait_for("document.querySelector('#connection')?.textContent === 'live'")


def test_a_preview_that_comes_back_with_another_token_asks_for_it_on_the_page(make_result, publishing, browser):
    from edgeclf.toolkit.serve.server import preview_server

    state = "document.querySelector('#connection').textContent"
    asks = "!document.querySelector('#access').hidden"
    enter = """(() => {{document.querySelector('#token').value = '{}';
      document.querySelector('#access button').click(); return true}})()"""

    def publish_to(preview):
        return publishing(lambda number: preview.on_result(make_result("green", number)))

    with preview_server(":0", "an-earlier-token", model=dict, cameras=["0"]) as preview, publish_to(preview):
        url = preview.url
        browser.open(f"{url}?token=an-earlier-token")
        browser.wait_for(f"{state} === 'live'")
        assert not browser.value(asks)
    browser.wait_for(f"{state} === 'connection lost'")
    assert not browser.value(asks)
    with preview_server(f":{urlsplit(url).port}", TOKEN, model=dict, cameras=["0"]) as preview, publish_to(preview):
        browser.wait_for(asks)
        assert browser.value(state) == "token needed"
        browser.value(enter.format("wrong & other"))
        browser.wait_for("document.querySelector('#refusal').textContent === 'This is another one.'")
        browser.value(enter.format(TOKEN))
        browser.wait_for(f"{state} === 'live'")
        assert not browser.value(asks)
        assert browser.value("location.href") == url
        browser.wait_for(COLOURS + "[0] === 'green'")


def test_a_page_that_nobody_looks_at_asks_for_nothing(start_preview, make_result, publishing, browser):
    preview = start_preview()
    with publishing(lambda number: preview.on_result(make_result("red", number))):
        browser.open(preview.url)
        browser.wait_for("document.querySelector('#connection').textContent === 'live'")
        hide = "Object.defineProperty(document, 'visibilityState', {{value: '{}', configurable: true}});"
        tell = "document.dispatchEvent(new Event('visibilitychange'))"
        browser.value(hide.format("hidden") + tell)
        browser.value("new Promise((done) => setTimeout(done, 500))")
        browser.events.clear()
        browser.value("new Promise((done) => setTimeout(done, 1000))")
        assert browser.requested() == set()
        browser.value(hide.format("visible") + tell)
        browser.wait_for("document.querySelector('#connection').textContent === 'live'")
        browser.value("new Promise((done) => setTimeout(done, 500))")
        assert {urlsplit(url).path for url in browser.requested()} == {"/api/stream", "/cameras/0/picture.jpg"}


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_sticks_out_at_the_side(start_preview, make_result, browser, width):
    preview = start_preview()
    preview.on_result(
        make_result("red", camera="rtsp://user:***@a-very-long-name-of-a-camera.example.org:554/Streaming/Channels/101")
    )
    preview.on_event({"event": "enter", "source": "x" * 120, "label": "y" * 120})
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
    try:
        browser.open(preview.url)
        browser.wait_for("document.querySelector('.answer .label')?.textContent === 'red'")
        assert browser.value("document.documentElement.scrollWidth") <= width
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_text_is_readable_in_light_and_dark():
    style = (PAGE / "preview.css").read_text(encoding="utf-8")
    schemes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(schemes) == 2
    assert schemes[0].keys() == schemes[1].keys()
    pairs = [("text", "ground"), ("text", "card"), ("quiet", "card"), ("quiet", "ground"), ("quiet", "track")]
    pairs += [("accent", "card"), ("accent", "ground"), ("good", "good-ground"), ("bad", "bad-ground"), ("bad", "card")]
    for scheme in schemes:
        for text, ground in pairs:
            darker, lighter = sorted((luminance(scheme[text]), luminance(scheme[ground])))
            # WCAG 2.2, 1.4.3: at least 4.5 to 1.
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, ground)
        for line in ("latency", "age"):
            darker, lighter = sorted((luminance(scheme[line]), luminance(scheme["card"])))
            assert (lighter + 0.05) / (darker + 0.05) >= 3, line  # 1.4.11, graphical objects


def test_the_page_needs_nothing_from_elsewhere():
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.findall(r"(?:https?:)?//[\w.]+\.\w+/|@import|url\(", text), file.name
