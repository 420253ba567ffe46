"""What a page may ask for: JSON, one map a message, checked before anything is done."""

from __future__ import annotations

from typing import Annotated

import msgspec

from perception.errors import WireError

MOST_BYTES = 16 << 10
"""Longest message of a page."""

Number = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]


class _Asked(msgspec.Struct, frozen=True, tag_field="do"):
    """What every message of a page says."""


class Look(_Asked, frozen=True, tag="look"):
    """Show this camera ("": the first), and send frames, or none while the page sleeps or holds its picture."""

    camera: str = ""
    frames: bool = True


class Painted(_Asked, frozen=True, tag="painted"):
    """A frame is on the screen, or was left out for a newer one: another may come."""

    n: int


class Heard(_Asked, frozen=True, tag="heard"):
    """A status has been read: another may come."""

    n: int


class Play(_Asked, frozen=True, tag="play"):
    """Pause, step or move the drive that the node plays."""

    pause: bool | None = None
    step: bool = False
    seek_s: Number | None = None


class Prompt(_Asked, frozen=True, tag="prompt"):
    """Follow what this points at [frame px]."""

    points: Annotated[tuple[tuple[Number, Number], ...], msgspec.Meta(max_length=16)] = ()
    box: tuple[Number, Number, Number, Number] | None = None


class Remove(_Asked, frozen=True, tag="remove"):
    """End a track."""

    track_id: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


Asked = Look | Painted | Heard | Play | Prompt | Remove
_decode = msgspec.json.Decoder(Asked).decode


def asked(text: str | bytes) -> Asked:
    """Raises WireError for anything else."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"not a message of this page: {error}") from error
