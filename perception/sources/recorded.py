"""What lies at a path to a reader of it: a video, pictures, an MCAP recording, a bag."""

from __future__ import annotations

from pathlib import Path

from perception.errors import SourceError
from perception.sources.options import Options
from perception.sources.shots import Reader

_MAGIC = {b"\x89MCAP0\r\n": "mcap", b"#ROSBAG V2.0": "bag", b"SQLite format 3\0": "bag"}
_NAMES = {".bag": "bag", ".db3": "bag", ".mcap": "mcap", ".active": "mcap"}


def open_recorded(path: Path, options: Options) -> Reader:
    """The reader of a file or folder that is there; takes the options that belong to its kind.

    Raises:
        SourceError: it can't be read, or an option is wrong, missing or not known for this kind.
    """
    match kind_of(path):
        case "mcap":
            topic = _only(options, "topic")
            from perception.sources.mcap_images import open_mcap

            return open_mcap(path, topic)
        case "bag":
            topic = _only(options, "topic")
            from perception.sources.bag import open_bag

            return open_bag(path, topic)
        case "pictures":
            if path.is_dir() and "topic" in options:
                raise SourceError(f"{path}: no bag: there is no metadata.yaml in it: give a bag, or no topic")
            fps, sequence = options.rate("fps", 0.0), options.text("sequence", "")
            options.require_empty()
            from perception.sources.folder import FolderReader

            return FolderReader(path, fps, sequence)
    options.require_empty()
    from perception.sources.video import VideoReader

    return VideoReader(path)


def kind_of(path: Path) -> str:
    """ "mcap", "bag", "pictures" or "video", by content, and by name where the content says nothing."""
    if path.is_dir():
        return _kind_of_folder(path)
    from perception.images import SUFFIXES, image_size

    try:
        with path.open("rb") as file:
            begin = file.read(4096)
    except OSError:
        begin = b""
    for magic, kind in _MAGIC.items():
        if begin.startswith(magic):
            return kind
    # FFmpeg would decode a picture without our limits, whatever its name says
    if path.suffix.lower() in SUFFIXES or image_size(begin) is not None:
        return "pictures"
    return _NAMES.get(path.suffix.lower(), "video")


def _kind_of_folder(folder: Path) -> str:
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}: give a folder that can be read") from None
    if "metadata.yaml" in names:
        return "bag"
    if any(name.endswith((".mcap", ".mcap.active")) for name in names):
        return "mcap"
    bags = sorted(name for name in names if name.endswith((".db3", ".bag")))
    if bags:
        fix = f"give one file, like {folder / bags[0]}, or make it anew: ros2 bag reindex"
        raise SourceError(f"{folder}: a bag without its metadata.yaml: {fix}")
    return "pictures"


def _only(options: Options, key: str) -> str:
    value = options.text(key, "")
    options.require_empty()
    return value
