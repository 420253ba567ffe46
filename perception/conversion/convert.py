"""From one form of a drive to another, chosen by the name of the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from perception.conversion.outputs import Progress, no_progress
from perception.conversion.pictures import PictureWishes, write_pictures
from perception.conversion.recorded import RecordWishes, write_recording
from perception.conversion.video import SUFFIXES, VideoWishes, write_video
from perception.drives.ending import warn_unclosed
from perception.drives.layout import SUFFIX
from perception.drives.recording import open_recording
from perception.errors import RecordingError
from perception.sources.recorded import kind_of

FORMS = ("mcap", "video", "pictures", "ros2")


@dataclass(frozen=True, slots=True)
class ConvertWishes:
    """How a drive is converted.

    Args:
        form: one of FORMS; "": "mcap" for what is not a recording of ours, and by the suffix for what is.
        camera, images, quality: of a new recording, as `camera`, `form` and `quality` of RecordWishes.
    """

    form: str = ""
    camera: str = "front"
    images: str = ""
    quality: int = 95


def convert(
    given: str, out: Path, wishes: ConvertWishes, *, force: bool = False, progress: Progress = no_progress
) -> str:
    """Convert a drive; says in a few words what was done.

    Args:
        given: a recording of ours, or any recorded source.

    Raises:
        RecordingError: it can't be converted so, or `out` is there already.
        SourceError: it can't be read.
    """
    is_recording = is_ours(given)
    form = form_for(out, wishes.form, is_recording)
    if form == "mcap":
        if is_recording:
            raise RecordingError(f"{given}: a recording of ours already: `perception drive cut` copies parts of it")
        told = RecordWishes(wishes.camera, wishes.images, wishes.quality)
        done = write_recording(given, out, told, force=force, progress=progress)
        kept = f", {done.kept} of them the source's own bytes" if done.kept else ""
        broken = f", {done.broken} broken ones left out" if done.broken else ""
        return f"{done.frames} frames as {done.form}{kept}{broken}"
    if not is_recording:
        raise RecordingError(f"{given}: not a recording of ours: convert it to {SUFFIX} first, and that to {form}")
    return _from_recording(Path(given), out, form, force, progress)


def _from_recording(given: Path, out: Path, form: str, force: bool, progress: Progress) -> str:
    warn_unclosed(open_recording(given))
    if form == "video":
        video = write_video(given, out, VideoWishes(plain=True), force=force, progress=progress)
        return f"{video.frames} frames of {video.width}x{video.height} by {video.codec}"
    if form == "pictures":
        pictures = write_pictures(given, out, PictureWishes(), force=force, progress=progress)
        return f"{pictures.frames} pictures"
    from perception.conversion.bag import write_bag

    bag = write_bag(given, out, force=force, progress=progress)
    return ", ".join(f"{topic} {count}" for topic, count in bag.messages.items())


def form_for(out: Path, wanted: str, is_recording: bool) -> str:
    """One of FORMS for this name. Raises RecordingError where it is not clear."""
    if wanted and wanted not in FORMS:
        raise RecordingError(f"--to {wanted}: one of {', '.join(FORMS)}")
    named = {SUFFIX: "mcap"}.get(out.suffix.lower(), "video" if out.suffix.lower() in SUFFIXES else "")
    if wanted and named and wanted != named and {wanted, named} != {"ros2", "mcap"}:
        raise RecordingError(f"{out}: its name says {named} and --to says {wanted}: make them the same")
    if out.suffix and not (wanted or named):
        *some, last = sorted({SUFFIX, *SUFFIXES})
        known = f"{', '.join(some)} or {last}"
        raise RecordingError(
            f"{out}: its suffix {out.suffix} says nothing: give {known}, a name without a suffix, or --to"
        )
    if form := wanted or named or ("" if is_recording else "mcap"):
        return form
    raise RecordingError(f"{out}: a folder may be pictures or a ROS 2 bag: say --to pictures or --to ros2")


def is_ours(given: str) -> bool:
    """Whether it is a recording that perception wrote. Raises RecordingError for a damaged one."""
    path = Path(given)
    if not path.exists() or kind_of(path) != "mcap":
        return False
    return open_recording(path).about is not None
