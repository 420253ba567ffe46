"""What the peers of an XPUB socket ask for, and when that is a flood and no question."""

from __future__ import annotations

import time
from collections.abc import Iterable

_STRANGE_LIMIT = 4096  # subscriptions to topics that we don't have
_TOLD_LIMIT = 4096  # subscriptions and ends of them within a second, to whatever topic


class Subscriptions:
    """The topics that somebody wants; a finite number, whatever peers say.

    Args:
        topics: all that there are.
    """

    def __init__(self, topics: Iterable[str]) -> None:
        self._known = {topic: topic.encode() + b"\0" for topic in topics}
        self._wanted: set[bytes] = set()  # those that are prefixes of our topics
        self._strange = 0
        self._told, self._told_since_s = 0, 0.0  # of this second, and when that began

    def wants(self, topic: str) -> bool:
        """Whether somebody subscribes to this topic."""
        return any(self._known[topic].startswith(prefix) for prefix in self._wanted)

    def note(self, told: bytes) -> set[str]:
        """Take in what XPUB gave; the topics that a new subscription covers."""
        self._count()
        joins, prefix = told[:1] == b"\1", told[1:]
        covered = {topic for topic, name in self._known.items() if name.startswith(prefix)}
        if not covered:
            # each costs ZeroMQ kilobytes that it does not give back while the peer stays
            self._strange = max(0, self._strange + (1 if joins else -1))
        elif joins:
            self._wanted.add(prefix)
            return covered
        else:
            self._wanted.discard(prefix)
        return set()

    @property
    def senseless(self) -> int:
        """How many subscriptions are more than honest peers send; 0 while they are not."""
        return max(self._strange, self._told) if self._strange > _STRANGE_LIMIT or self._told > _TOLD_LIMIT else 0

    def forget(self) -> None:
        """All peers are gone."""
        self._wanted.clear()
        self._strange = self._told = 0

    def _count(self) -> None:
        now = time.monotonic()
        if now - self._told_since_s > 1.0:
            self._told, self._told_since_s = 0, now
        self._told += 1
