"""Holds a door open while a camera sees one class: an application built on `edgeclf.runtime` alone.

    python examples/live_door.py model.onnx rtsp://192.168.0.20/live cat

The camera may go away and come back, and the model's file may be replaced: the door is closed while the camera is lost or frozen.
Needs numpy, OpenCV and ONNX Runtime: `pip install "edgeclf[headless]"`.
"""

import argparse
import sys
from functools import partial

from edgeclf.runtime import Disconnected, EdgeclfError, Frozen, LiveClassifier, LiveEvent, Recovered, Smoothing


class Door:
    """Stands for what a real application would move; stays closed while the camera is frozen."""

    is_open = is_frozen = False

    def move(self, *, open_it: bool) -> None:
        """Opens or closes the door, if it is not there already."""
        open_it = open_it and not self.is_frozen
        if open_it != self.is_open:
            self.is_open = open_it
            print("open" if open_it else "closed", flush=True)


def on_event(door: Door, event: LiveEvent) -> None:
    """Closes the door when the camera is lost or frozen, and keeps a log."""
    if isinstance(event, Frozen | Recovered):
        door.is_frozen = isinstance(event, Frozen)
    if isinstance(event, Disconnected | Frozen):
        door.move(open_it=False)
    print(event, file=sys.stderr, flush=True)


def main() -> int:
    """Watches the camera until Ctrl-C, or until the camera is gone for good."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("camera")
    parser.add_argument("label")
    options = parser.parse_args()
    door = Door()
    smoothing = Smoothing(time_constant_s=0.3, margin=0.1, hold_s=0.2)
    try:
        with LiveClassifier(
            options.model,
            options.camera,
            smoothing=smoothing,
            freeze_after_s=10,
            watch_model=True,
            on_event=partial(on_event, door),
        ) as live:
            for result in live:
                door.move(open_it=result.label == options.label)
    except KeyboardInterrupt:
        return 0
    except EdgeclfError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        door.move(open_it=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
