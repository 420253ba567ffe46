"""Camera images as a recording holds them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2

FASTEST_PNG = 1


def encode_picture(image: NDArray[np.uint8], form: str, quality: int = 90) -> bytes:
    """(h, w, 3) RGB as "jpeg" of that quality, "png", or "raw": the bytes of the array."""
    if form == "raw":
        return np.ascontiguousarray(image).tobytes()
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if form == "png":
        return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, FASTEST_PNG])[1].tobytes()
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
