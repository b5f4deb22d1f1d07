"""Small videos: written with our own recorder, and packet by packet."""

import struct

import cv2
import numpy as np

from edgeclf.runtime.live.recorder import VideoRecorder


def frames_of(count, size_hw=(48, 64)):
    return [np.full((*size_hw, 3), number * 8 % 256, np.uint8) for number in range(count)]


def record(path, frames, fps=20.0):
    recorder = VideoRecorder(path, path)
    for frame in frames:
        recorder.write(frame, fps)
    recorder.close()
    return path


def jpeg(image_bgr):
    return cv2.imencode(".jpg", image_bgr)[1].tobytes()


def _element(identifier, body):
    """An EBML element with a length of eight bytes."""
    return bytes.fromhex(identifier) + struct.pack(">Q", len(body) | 1 << 56) + body


def _number(identifier, value, size=4):
    return _element(identifier, value.to_bytes(size, "big"))


def write_matroska(path, packets, size_hw=(48, 64), *, with_sound=False):
    """Writes a Matroska file of JPEG frames without a duration, so that it announces no number of frames.

    Args:
        path: The file.
        packets: (time in milliseconds, bytes) in order: bytes of a JPEG, or anything else; None is a packet of sound.
        size_hw: The size in the header.
        with_sound: Whether there is a track of sound.
    """
    height, width = size_hw
    video = _element("e0", _number("b0", width) + _number("ba", height))
    tracks = _element(
        "ae", _number("d7", 1) + _number("73c5", 1) + _number("83", 1) + _element("86", b"V_MJPEG") + video
    )
    if with_sound:
        audio = _element("e1", _element("b5", struct.pack(">f", 8000.0)) + _number("9f", 1) + _number("6264", 16))
        tracks += _element(
            "ae", _number("d7", 2) + _number("73c5", 2) + _number("83", 2) + _element("86", b"A_PCM/INT/LIT") + audio
        )
    blocks = b""
    for time_ms, data in packets:
        track = 1 if data is not None else 2
        block = struct.pack(">BhB", 0x80 | track, 0, 0x80) + (bytes(160) if data is None else data)
        # A cluster for each, whose times are 16 bits.
        blocks += _element("1f43b675", _number("e7", time_ms, 8) + _element("a3", block))
    head = _element("1a45dfa3", _element("4282", b"matroska") + _number("4287", 4, 1) + _number("4285", 2, 1))
    info = _element("1549a966", _number("2ad7b1", 1_000_000) + _element("4d80", b"tests") + _element("5741", b"tests"))
    path.write_bytes(head + _element("18538067", info + _element("1654ae6b", tracks) + blocks))
    return path


def turned(path, degrees):
    """The same MP4 with a display matrix that turns it clockwise, as phones write it."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    cos, sin = {0: (one, 0), 90: (0, one), 180: (-one, 0), 270: (0, -one)}[degrees]
    struct.pack_into(">9i", data, at, cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
