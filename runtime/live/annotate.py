"""Annotation: label and confidence drawn into a frame."""

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.prediction import Prediction


def annotate(frame_bgr: UInt8Array, prediction: Prediction, note: str = "") -> UInt8Array:
    """A copy of the frame with label and confidence in a bar along its top.

    Args:
        frame_bgr: (H, W, 3) uint8, BGR.
        prediction: Its label and confidence are drawn.
        note: Text behind them, such as a frame rate.

    Returns:
        (H, W, 3) uint8, BGR.
    """
    drawn = frame_bgr.copy()
    width = frame_bgr.shape[1]
    # OpenCV's fonts hold ASCII only and draw several question marks for any other character; here it is one.
    text = f"{prediction.label} {prediction.confidence:.0%}" + (f"  {note}" if note else "")
    text = text.encode("ascii", "replace").decode()
    scale = max(0.4, width / 800)
    thickness = max(1, round(scale * 1.6))
    (text_width, text_height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    if text_width > width - 8:
        scale *= (width - 8) / text_width
        (text_width, text_height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    bar = drawn[: text_height + baseline + 8]
    bar //= 3  # darkened, so that white text is readable on any image
    white = (255, 255, 255)
    cv2.putText(drawn, text, (4, text_height + 4), cv2.FONT_HERSHEY_SIMPLEX, scale, white, thickness, cv2.LINE_AA)
    return drawn
