"""A video that comes as one message a picture: foxglove.CompressedVideo.

Its rules (https://docs.foxglove.dev/docs/sdk/schemas/compressed-video): one picture a message, Annex B, no B-frames,
and the parameter sets before each key frame.
"""

from __future__ import annotations

from av.codec import CodecContext
from av.codec.context import Flags
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

from perception.errors import SourceError
from perception.opencv import MAX_PIXELS
from perception.sources.shots import Image
from perception.sources.stream import to_rgb, why

_CODECS = {"h264": "h264", "h265": "hevc"}


class VideoMessages:
    """Decodes messages in their order; one whose picture needs another that is missing is broken."""

    def __init__(self, name: str) -> None:
        """`name` is the topic as shown in errors."""
        self._name = name
        self._context: VideoCodecContext | None = None

    def decode(self, codec: str, data: bytes) -> Image:
        """The picture of the next message. Raises SourceError when it is broken, or of a codec that is not known."""
        if codec not in _CODECS:
            raise SourceError(f"{self._name}: video in {codec!r}; we read {', '.join(_CODECS)}")
        context = self._context = self._context or _open(_CODECS[codec])
        try:
            frames = context.decode(Packet(data)) if data else []
        except (FFmpegError, ValueError) as error:
            raise SourceError(f"{self._name}: a picture can't be decoded: {why(error, '')}") from None
        if not frames:
            raise SourceError(f"{self._name}: a message holds no whole picture, or needs one that is missing")
        return to_rgb(frames[-1])


def _open(codec: str) -> VideoCodecContext:
    context = CodecContext.create(codec, "r")
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1  # with more the pictures would come later than their messages
    context.flags |= Flags.low_delay
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return context
