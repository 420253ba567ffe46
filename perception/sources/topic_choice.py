"""Which image topic of a recording is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perception.errors import SourceError


def choose(name: str, wanted: str, pictures: Mapping[str, int | None], kinds: Mapping[str, str]) -> str:
    """The topic `wanted`, or the only one that holds pictures.

    Args:
        name: of the recording, as shown in errors.
        wanted: "" where nobody chose.
        pictures: how many messages each image topic has, None where that is not known.
        kinds: the message type of every topic.

    Raises:
        SourceError: there is none, not that one, or several and none chosen; with those that there are.
    """
    if not kinds:
        raise SourceError(f"{name}: holds no topics: give a recording with pictures in it")
    if not pictures:
        found = [f"{topic} ({kind or 'no type'})" for topic, kind in kinds.items()]
        raise SourceError(f"{name}: no image topic that we read; it holds {listed(found)}")
    if wanted in pictures:
        return wanted
    found = [topic if count is None else f"{topic} ({count} messages)" for topic, count in pictures.items()]
    if wanted:
        raise SourceError(f"{name}: no image topic {wanted!r}: it holds {listed(found)}")
    if len(pictures) > 1:
        first = next(iter(pictures))
        raise SourceError(f"{name}: several image topics: {listed(found)}: choose one, like {name}?topic={first}")
    return next(iter(pictures))


def listed(words: Sequence[str], most: int = 12) -> str:
    """The first of them, and how many more there are."""
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")
