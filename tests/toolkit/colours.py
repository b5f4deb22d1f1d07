"""Pictures that the model of the mean colour knows, and what the tests of `edgeclf infer` do with them."""

import json

import cv2
import numpy as np

from ..randomness import fresh_rng

COLOURS_BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


def colour_image(label, size_hw=(48, 64)):
    """(H, W, 3) uint8 BGR: noise around a colour."""
    noise = fresh_rng().integers(0, 60, (*size_hw, 3))
    return np.clip(np.array(COLOURS_BGR[label]) * 0.6 + noise, 0, 255).astype(np.uint8)


def picture(label, size_hw=(48, 64)):
    """The same as JPEG."""
    return cv2.imencode(".jpg", colour_image(label, size_hw))[1].tobytes()


def paced(items, seconds):
    """Each item, and a pause behind it."""
    for item in items:
        yield item
        yield seconds


def write_video(path, labels, fps=30.0):
    """Writes a frame of each colour."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 48))
    for label in labels:
        writer.write(colour_image(label))
    writer.release()
    return path


def records(text):
    """JSON Lines."""
    return [json.loads(line) for line in text.splitlines()]
