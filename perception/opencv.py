"""OpenCV with the limits that a node needs: `from perception.opencv import cv2`.

OpenCV reads these settings once, while it is imported, so they have to stand before the first import of cv2.
"""

from __future__ import annotations

import os

MAX_PIXELS = 64_000_000
"""The largest picture that any source decodes [px]; more is taken for a decompression bomb."""

V4L2_SELECT_S = 1
"""How long one read of a V4L2 camera may block [s]; OpenCV takes whole seconds."""

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(V4L2_SELECT_S))
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # an absent camera is our status, not a line on stderr per try

import cv2  # noqa: E402

# Its own pool would fight with the engine's for the cores: on two cores this takes 2 ms off the network's call and a
# fifth off the p99 of capture to sent, and our own calls are too short to gain from threads.
cv2.setNumThreads(1)

__all__ = ["MAX_PIXELS", "V4L2_SELECT_S", "cv2"]
