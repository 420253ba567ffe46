"""Uncompressed pictures of other systems to RGB: the encodings that ROS and Foxglove name alike.

Names and layouts: sensor_msgs/image_encodings.hpp of ROS, and foxglove.RawImage.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.errors import SourceError
from perception.opencv import MAX_PIXELS, cv2
from perception.sources.shots import Image

# encoding: bytes a pixel, and OpenCV's conversion; OpenCV names a Bayer pattern by its second row and column
_ENCODINGS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "8uc3": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8uc1": (1, cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
}


def raw_image(encoding: str, size: tuple[int, int], step: int, data: bytes | NDArray[np.uint8], name: str) -> Image:
    """The picture as RGB in memory of its own.

    Args:
        encoding: "rgb8", "mono8", "bayer_rggb8", ...
        size: width, height [px].
        step: bytes of a row; 0 for rows without padding.
        data: the rows from top to bottom.
        name: as shown in errors.

    Raises:
        SourceError: an encoding that is not known here, or too few bytes for that size.
    """
    found = _ENCODINGS.get(encoding.lower())
    if found is None:
        known = ", ".join(sorted(_ENCODINGS))
        raise SourceError(f"{name}: pixels are {encoding!r}, which can't be shown as colours: known are {known}")
    (width, height), (depth, code) = size, found
    if width <= 0 or height <= 0 or width * height > MAX_PIXELS:
        raise SourceError(f"{name}: claims {width}x{height} pixels; at most {MAX_PIXELS} are taken: scale it down")
    step = step or width * depth
    values = np.frombuffer(data, np.uint8)
    if step < width * depth or values.size < step * height:
        raise SourceError(
            f"{name}: {values.size} bytes in rows of {step} are no {width}x{height} picture in {encoding}"
        )
    rows = values[: step * height].reshape(height, step)[:, : width * depth].reshape(height, width, depth)
    if code is None:
        return rows.copy()
    try:
        return cv2.cvtColor(np.ascontiguousarray(rows), code)  # type: ignore[return-value]
    except cv2.error:
        raise SourceError(f"{name}: {width}x{height} is no size for a picture in {encoding}") from None
