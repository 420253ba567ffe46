"""What the frames themselves say: a cut, a jump in time, another size, a camera that has frozen."""

from __future__ import annotations

import copy
import hashlib
import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2
from perception.types import Frame

THUMBNAIL = (64, 36)  # width, height
UNLIKE = 0.25
"""1 - correlation of two thumbnails; up to it the picture has at most moved a little."""
CUT = 0.30
"""1 - correlation of the median block with the best place for it nearby; above it the picture is another one.

Consecutive frames of DAVIS (24 fps, fast pans) reach 0.23, rendered drives 0.21 (0.29 at 5 Hz), CamVid, BDD and the
drives never get beyond UNLIKE; of pairs from different sequences 97 % are above. A cut that is missed costs little, as
the network denies what it does not see; a cut that is none costs every id.
"""
FLICKER_NS = 1_000_000_000
"""Pictures that jump again and again within it are one that flickers (lamps behind a rolling shutter, row noise in the
dark): of what follows a real cut at once a little is seen as the old scene, but every id in each frame is not lost."""
FROZEN_NS = 300_000_000
_BLOCK = (8, 9)  # width, height of a block of the thumbnail
_SEARCH = (8, 4)  # how far from its place a block is looked for, x and y: a pan of an eighth of the picture
_LEAST_CONTRAST = 0.05  # standard deviation of the logarithm; a block of less has nothing to be known by
_LEAST_BLOCKS = 8  # of 32: fewer can't tell, as in the dark or in glare
_DARK, _BRIGHT = 4, 248  # beyond them a sensor clips
_MOST_CLIPPED = 0.25  # of a block
_SAMPLE = 40  # [rows] a frozen camera repeats every pixel, its noise included; all others differ in these rows already
_ROWS = 5 * THUMBNAIL[1]  # more are not looked at for a thumbnail
NOT_LOOKED = "the network has not looked at any frame of this scene yet"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a snapshot keeps of a picture: enough to tell whether the next one is the very same."""

    shape: tuple[int, ...]
    sha256: bytes


def fingerprint(image: NDArray[np.uint8]) -> Fingerprint:
    return Fingerprint(image.shape, hashlib.sha256(np.ascontiguousarray(image).data).digest())


class SceneChange:
    """Looks at each frame once, in order.

    Args:
        longest_step_ns: a longer gap between two frames ends all that was known [ns].
    """

    def __init__(self, longest_step_ns: int = 2_000_000_000) -> None:
        self.longest_step_ns = longest_step_ns
        self._small = Small()  # an outlook's copy shares it
        self.stamp_ns: int | None = None
        self._image: NDArray[np.uint8] | Fingerprint | None = None
        self._thumbnail: NDArray[np.float32] | None = None
        self._same_since_ns: int | None = None
        self._jumped_ns: int | None = None  # of the last frame that differed as after a cut, were it one or flicker

    def cut(self, frame: Frame) -> str:
        """Why this frame has nothing to do with the one before; empty where it has."""
        small = self._small.of(frame.image)
        reason = self._reason(frame, small)
        if self._image is None or not _is_same(frame.image, self._image):
            self._same_since_ns = frame.stamp_ns
        self.stamp_ns, self._image, self._thumbnail = frame.stamp_ns, frame.image, small
        return reason

    def _reason(self, frame: Frame, small: NDArray[np.float32]) -> str:
        if self.stamp_ns is None or self._image is None or self._thumbnail is None:
            return ""
        step = frame.stamp_ns - self.stamp_ns
        if not 0 <= step <= self.longest_step_ns:
            return f"time jumped by {step / 1e9:.2f} s"
        if frame.image.shape != self._image.shape:
            (h, w), (h0, w0) = frame.image.shape[:2], self._image.shape[:2]
            return f"frames of {w}x{h} after {w0}x{h0}"
        return "the picture jumped" if is_cut(self._thumbnail, small) and not self._flickers(frame.stamp_ns) else ""

    def _flickers(self, stamp_ns: int) -> bool:
        """Whether the picture, which has jumped at this stamp, had jumped shortly before."""
        before, self._jumped_ns = self._jumped_ns, stamp_ns
        return before is not None and 0 <= stamp_ns - before < FLICKER_NS

    def outlook(self, has_seen: bool) -> Outlook:
        """What is to come after the frame looked at last."""
        return Outlook(copy.copy(self), has_seen)

    def frozen(self, stamp_ns: int) -> str:
        """How long the very same picture has been coming; empty where it changes, as any living sensor's does."""
        still_ns = 0 if self._same_since_ns is None else stamp_ns - self._same_since_ns
        return f"the camera has given the same picture for {still_ns / 1e9:.1f} s" if still_ns > FROZEN_NS else ""


@dataclass
class Outlook:
    """Which of the next frames a propagator will know nothing of, told before it has stepped them.

    Args:
        change: a copy, which goes ahead.
        has_seen: the network has looked at something that still holds.
    """

    change: SceneChange
    has_seen: bool

    def is_blind(self, frame: Frame) -> bool:
        """To be asked of each of the next frames, in order; taken for granted is that the network looks at those."""
        is_blind = bool(self.change.cut(frame)) or not self.has_seen
        self.has_seen = True
        return is_blind


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(h, w, 3) -> grey levels at the size of THUMBNAIL."""
    rows = np.ascontiguousarray(image[:: max(1, image.shape[0] // _ROWS)])
    small = cv2.resize(rows, THUMBNAIL, interpolation=cv2.INTER_AREA)
    red, green, blue = np.asarray(small, np.float32).transpose(2, 0, 1)
    return (red + green + blue) / 3  # four times as fast as a mean over so short an axis


class Small:
    """The thumbnail of the picture that was asked for last: an outlook and the step after it need the same one.

    The picture itself is not kept alive. Threads that ask for different ones make them more than once, no worse.
    """

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[NDArray[np.uint8]], NDArray[np.float32]] | None = None

    def of(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        last = self._last  # read and replaced as a whole, so that no thread meets another one's picture
        if last is None or last[0]() is not image:
            self._last = last = weakref.ref(image), thumbnail(image)
        return last[1]


def is_cut(before: NDArray[np.float32], now: NDArray[np.float32]) -> bool:
    """Whether two thumbnails show different scenes, of whatever exposure and however the camera panned.

    Logarithms make a gain an offset, which correlation does not see; what still differs may have moved, so blocks of
    the one are looked for in the other.
    """
    logs = np.log(before + 8), np.log(now + 8)
    return _unlikeness(*logs) > UNLIKE and _block_unlikeness((before, now), logs) > CUT


def _unlikeness(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """1 - correlation, where differences as small as a sensor's noise count as none."""
    a, b = (np.asarray(cv2.resize(x, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.float32) for x in (a, b))
    a, b = a - a.mean(), b - b.mean()
    noise = a.size * _LEAST_CONTRAST**2
    return 1 - float((a * b).sum() / np.sqrt(((a * a).sum() + noise) * ((b * b).sum() + noise)))


def _block_unlikeness(
    greys: tuple[NDArray[np.float32], NDArray[np.float32]], logs: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> float:
    """1 - the correlation that the median block has with its best place nearby; 0 where too few can tell."""
    (w, h), (x, y) = _BLOCK, _SEARCH
    wide = cv2.copyMakeBorder(logs[1], y, y, x, x, cv2.BORDER_REPLICATE)
    clipped = [(grey >= _BRIGHT) | (grey <= _DARK) for grey in greys]
    found: list[float] = []
    for top in range(0, THUMBNAIL[1], h):
        for left in range(0, THUMBNAIL[0], w):
            block = np.s_[top : top + h, left : left + w]
            if min(log[block].std() for log in logs) <= _LEAST_CONTRAST:
                continue
            if max(c[block].mean() for c in clipped) > _MOST_CLIPPED:
                continue
            around = wide[top : top + h + 2 * y, left : left + w + 2 * x]
            found.append(float(cv2.matchTemplate(around, logs[0][block], cv2.TM_CCOEFF_NORMED).max()))
    return 1 - float(np.median(found)) if len(found) >= _LEAST_BLOCKS else 0.0


def _is_same(a: NDArray[np.uint8], b: NDArray[np.uint8] | Fingerprint) -> bool:
    if isinstance(b, Fingerprint):
        return a.shape == b.shape and fingerprint(a) == b
    if a is b:
        return True
    return a.shape == b.shape and np.array_equal(a[::_SAMPLE], b[::_SAMPLE]) and np.array_equal(a, b)
