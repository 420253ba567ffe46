"""The seam between the two carriers of masks (training-free and learned) and the fusion that both share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception.types import Features

CELL = 4  # [px of the mask] masks are carried on a grid of it


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """Where the followed things are in the frame of now, as the memory has it. h, w are the mask's size / CELL."""

    masks: NDArray[np.float32]  # (slots, h, w) probability; with the background's they add up to 1
    presence: NDArray[np.float32]  # (slots,) probability of being visible at all
    quality: NDArray[np.float32]  # (slots,) expected IoU of the mask with the truth


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What the fusion made of the frame that was carried to last. Arrays are valid until `keep` returns."""

    masks: NDArray[np.float32]  # (slots, h, w) in [0, 1], non-overlapping
    active: NDArray[np.bool_]  # (slots,) holds a thing
    taught: NDArray[np.float32]  # (slots,) how much of the thing's pointer this frame replaces, [0, 1]
    seen_ns: NDArray[np.int64]  # (slots,) stamp of the frame in which the network last saw it [ns]
    is_good: bool  # may enter the memory; a doubtful frame is only the frame before
    is_key: bool  # confirmed enough to be remembered as a key frame


class Carrier(Protocol):
    """Carries the masks of up to `slots` things from frame to frame at a cost that hardly grows with their number."""

    slots: int
    cheap_slots: int  # the first so many cost what one costs

    def carry(self, features: Features, stamp_ns: int) -> Carried:
        """The kept masks in the frame of now. Arrays are valid until the next call."""
        ...

    def keep(self, kept: Kept) -> None:
        """Remember the frame that was carried to last. Must follow every `carry`."""
        ...

    def pin(self, slot: int, mask: NDArray[np.float32], stamp_ns: int) -> None:
        """Add a thing (h, w) to the frame kept last, which becomes a key frame that no later one replaces."""
        ...

    def forget(self, slot: int) -> None:
        """Wipe a slot before it goes to another thing, which else would inherit its past."""
        ...

    def reset(self) -> None: ...
    def close(self) -> None: ...
