"""One image topic of a recording as a drive, whoever wrote the recording."""

from __future__ import annotations

import hashlib
import logging
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

from perception.errors import SourceError
from perception.sources.shots import Image, Shot

log = logging.getLogger(__name__)

_LOOKED_AT = 30  # messages at the start that tell the rate
_DEFAULT_INTERVAL_NS = 33_333_333


class Message(NamedTuple):
    """An encoded picture as a recording has it."""

    log_ns: int  # when it was recorded, or what the recording goes by
    data: bytes
    place: int | None = None  # in the drive; None: the next one


class Picture(NamedTuple):
    """A message that was taken apart, its pixels not yet decoded."""

    stamp_ns: int  # by the camera's own word; 0 where it says nothing
    decode: Callable[[], Image]  # raises SourceError
    encoded: Callable[[], bytes] = bytes  # the JPEG or PNG that it is; b"" for bare pixels and for video


Parse = Callable[[bytes], Picture]
"""Takes a message apart. Raises SourceError when it is broken."""


@dataclass(frozen=True, slots=True)
class Topic:
    """Where the messages of an image topic come from, and what they are."""

    name: str  # as shown to people: path and topic
    messages: Callable[[int], Iterator[Message]]  # from a time since the first message [ns]; all where it can't seek
    parser: Callable[[], Parse]  # made anew for every pass
    files: tuple[Path, ...]  # that the identity is taken of
    key: str  # of the topic, for the identity
    is_chained: bool = False  # a picture can only be decoded after those before it
    is_seekable: bool = False  # messages say their own place, and log times are the stamps
    length_ns: int = 0  # about how long it is [ns]; 0: not known


class TopicReader:
    """The pictures of one topic; one that is broken, or has another size than the first good one, is a broken shot.

    Stamps are the camera's own where its first message has one, else the times of recording: never a mixture.
    """

    def __init__(self, topic: Topic) -> None:
        """Raises SourceError when no picture in it can be decoded."""
        self._topic = topic
        self.name = topic.name
        self.restamped = 0  # pictures whose own stamp was missing or did not rise, in the last pass
        first, image = self._first_good()
        self.height, self.width = image.shape[:2]
        self._by_log = first.stamp_ns == 0 or topic.is_seekable
        self._interval_ns = self._usual_interval_ns()
        self.fps = round(1e9 / self._interval_ns, 3)

    def shots(self, begin_ns: int = 0) -> Iterator[Shot]:
        """One pass; what is before `begin_ns` is not decoded. Raises SourceError when the recording is damaged."""
        parse = self._topic.parser()
        stamps = _Rising(self._interval_ns)
        for index, (message, picture, stamp_ns) in enumerate(self._stamped(parse, begin_ns)):
            place = index if message.place is None else message.place
            at_ns = stamps.next_ns(stamp_ns)
            is_wanted = at_ns >= begin_ns or self._topic.is_chained
            image = self._decode(picture) if is_wanted else None
            yield Shot(image, at_ns, place, picture.encoded if picture else bytes)
        self.restamped = stamps.repaired
        if stamps.repaired:
            log.warning(
                "%s: %d frames had no stamp or one that did not rise: spaced evenly", self.name, stamps.repaired
            )

    def length_ns(self) -> int:
        """As the recording's index tells it."""
        return self._topic.length_ns

    def identity(self) -> str:
        """16 hex digits over the files' content and the topic. Raises SourceError when one can't be read any more."""
        digest = hashlib.sha256(self._topic.key.encode())
        for path in self._topic.files:
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise SourceError(f"{path}: {error.strerror}") from None
        return digest.hexdigest()[:16]

    def _stamped(self, parse: Parse, begin_ns: int) -> Iterator[tuple[Message, Picture | None, int | None]]:
        """Messages with their stamp since the first one; None where it is not known."""
        begin: int | None = None
        for message in self._topic.messages(begin_ns):
            try:
                picture = parse(message.data)
            except SourceError as error:
                log.debug("%s", error)
                picture = None
            stamp_ns = message.log_ns if self._by_log else (picture.stamp_ns if picture else 0) or None
            if self._topic.is_seekable:
                begin = 0
            elif begin is None:
                begin = stamp_ns
            yield message, picture, None if stamp_ns is None or begin is None else stamp_ns - begin

    def _decode(self, picture: Picture | None) -> Image | None:
        if picture is None:
            return None
        try:
            image = picture.decode()
        except SourceError as error:
            log.debug("%s", error)
            return None
        if image.shape[:2] != (self.height, self.width):
            log.debug("%s: %dx%d instead of %dx%d", self.name, *image.shape[1::-1], self.width, self.height)
            return None
        return image

    def _first_good(self) -> tuple[Picture, Image]:
        parse, reason, first = self._topic.parser(), "", None
        for message in self._topic.messages(0):
            try:
                picture = parse(message.data)
                first = first or picture
                return first, picture.decode()
            except SourceError as error:
                reason = reason or str(error)
        if not reason:
            raise SourceError(f"{self.name}: holds no message: give a recording with pictures in it")
        raise SourceError(f"{self.name}: no picture in it can be decoded; the first: {reason}")

    def _usual_interval_ns(self) -> int:
        begin = islice(self._stamped(self._topic.parser(), 0), _LOOKED_AT)
        return usual_interval_ns([stamp_ns for _, _, stamp_ns in begin if stamp_ns is not None])


def usual_interval_ns(stamps_ns: Iterable[int]) -> int:
    """The median time between two pictures; that of 30 a second where it can't be told."""
    steps = [b - a for a, b in pairwise(stamps_ns) if b > a]
    return round(statistics.median(steps)) if steps else _DEFAULT_INTERVAL_NS


class _Rising:
    """Strictly rising stamps; what is missing or steps back is put a usual interval after the one before."""

    def __init__(self, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._last_ns: int | None = None
        self.repaired = 0

    def next_ns(self, stamp_ns: int | None) -> int:
        last_ns = self._last_ns
        if stamp_ns is None or (last_ns is not None and stamp_ns <= last_ns):
            stamp_ns = 0 if last_ns is None else last_ns + self._interval_ns
            self.repaired += 1
        self._last_ns = stamp_ns
        return stamp_ns
