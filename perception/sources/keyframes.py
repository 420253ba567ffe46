"""Where in a video to begin to decode, so that frames have the stamps and places that they have from the start."""

from __future__ import annotations

from dataclasses import dataclass

from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream


@dataclass(frozen=True, slots=True)
class Entry:
    """A key frame."""

    pts: int  # in the stream's time base
    place: int  # in the whole video, in the order of showing


def find_entry(container: InputContainer, stream: VideoStream, first_pts: int, pts: int) -> Entry | None:
    """The last key frame at or before `pts`; None where the packets' stamps can't tell the frames' places.

    Reads the packets of the whole file without decoding one.
    """
    stamps: list[int] = []
    keys: list[int] = []
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None or packet.is_corrupt:
                return None
            stamps.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
    except (FFmpegError, OSError):
        return None  # damaged: decoding from the start says so at the right place
    before = [key for key in keys if key <= pts]
    if not before or len(set(stamps)) < len(stamps) or min(stamps) != first_pts:
        return None
    key = max(before)
    return Entry(key, sum(stamp < key for stamp in stamps))


def seek(container: InputContainer, stream: VideoStream, entry: Entry) -> None:
    container.seek(entry.pts, stream=stream, backward=True, any_frame=False)


def can_enter(container: InputContainer, stream: VideoStream, entry: Entry) -> bool:
    """True when seeking leads to a key frame at or before the entry: not every container has an index."""
    try:
        seek(container, stream, entry)
        packet = next(iter(container.demux(stream)), None)
    except (FFmpegError, OSError):
        return False
    return packet is not None and packet.is_keyframe and packet.pts is not None and packet.pts <= entry.pts
