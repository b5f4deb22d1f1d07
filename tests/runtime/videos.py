"""Small videos, written with our own recorder."""

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
