"""How much two recordings may differ and still be the same: three levels, and which one fits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from perception.compare.pairing import same_drive
from perception.drives.layout import About
from perception.errors import ConfigError
from perception.strict_toml import check, read_tables

Level = Literal["bytes", "tight", "statistical"]
LEVELS: tuple[Level, ...] = ("bytes", "tight", "statistical")
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Rate = Annotated[float, msgspec.Meta(ge=0)]
Pixels = Annotated[int, msgspec.Meta(ge=0)]


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is still the same. Rates are per 1000 matched frames."""

    level: Level
    frame_iou: Share = 0.0  # least IoU of a class in any frame; 0: frames are not judged one by one
    frame_px: Pixels = 0  # a class may differ in so many pixels of a frame whatever its IoU [px]
    pooled_iou: Share = 1.0  # least IoU of a class over all frames
    boundary_f: Share = 1.0  # least boundary F of a class within boundary_px, over all frames
    boundary_px: Literal[1, 2, 4] = 1
    segment_px: Pixels = 0  # smaller things may appear and vanish [px]
    vanished: Share = 0.0  # share of A's things, counted by frame
    appeared: Share = 0.0  # share of B's
    id_switches: Rate = 0.0
    swap_px: Pixels = 0  # smaller areas may be of another class [px]
    swap_share: Share = 0.0  # and areas of a smaller share of their class in the frame
    swaps: Rate = 0.0  # frames with a swap, for each two classes
    validity: Rate = 0.0  # frames of another validity
    missing: Rate = 0.0  # frames that only A has
    added: Rate = 0.0  # frames that only B has
    messages: Rate = 0.0  # frames where only one of the two has a message of a topic
    latency_p50_ms: Rate = 10.0  # B may be later by so much
    latency_p99_ms: Rate = 10.0


TOLERANCES: dict[Level, Tolerance] = {
    "bytes": Tolerance("bytes", frame_iou=1.0),
    "tight": Tolerance(
        "tight",
        frame_iou=0.995,
        frame_px=16,
        pooled_iou=0.995,
        boundary_f=0.99,
        segment_px=32,
        swap_px=16,
    ),
    "statistical": Tolerance(
        "statistical",
        pooled_iou=0.98,
        boundary_f=0.95,
        boundary_px=2,
        segment_px=64,
        vanished=0.03,
        appeared=0.03,
        id_switches=5.0,
        swap_px=64,
        swap_share=0.25,
        swaps=10.0,
        validity=10.0,
        missing=20.0,
        added=20.0,
        messages=20.0,
    ),
}


def choose(a: About, b: About, level: str = "auto", file: Path | None = None) -> tuple[Tolerance, str]:
    """The tolerance, and why this level. An asked level goes before the file's, the file's before `auto`.

    A file says the fields of Tolerance that are to be others, and perhaps the level that they start from.

    Raises ConfigError for a level that there is not, and for a file that can't be read or says what it may not say.
    """
    said = read_tables(file) if file else {}
    wanted = said.pop("level", "auto")
    if level != "auto":
        wanted = level
    if wanted == "auto":
        name, why = fitting_level(a, b)
    else:
        name, why = _level(wanted), "as asked"
    if not said:
        return TOLERANCES[name], why
    tolerance = check(msgspec.structs.asdict(TOLERANCES[name]) | said, Tolerance, str(file))
    return tolerance, f"{why}; {', '.join(said)} from {file}"


def fitting_level(a: About, b: About) -> tuple[Level, str]:
    """The strictest level that two runs of one program would keep, and what keeps them from a stricter one."""
    for what, one, other in (
        ("models", a.model_id, b.model_id),
        ("engines", a.engine, b.engine),
        ("processors", a.machine.cpu, b.machine.cpu),
    ):
        if one != other:
            return "statistical", f"other {what}: {one or 'unknown'} and {other or 'unknown'}"
    if reason := _other_input(a, b):
        return "statistical", reason
    ours, theirs = a.machine.versions, b.machine.versions
    if other := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        name = other[0]
        return "tight", f"same engine and processor, but {name} {ours.get(name, '-')} and {theirs.get(name, '-')}"
    if _settings(a) != _settings(b):
        return "tight", "same engine and processor, but other settings of the model, the tracking or the topics"
    return "bytes", "same model, engine, versions, processor, settings and input"


def _other_input(a: About, b: About) -> str:
    """Why the two did not see the same pixels of the same frames, or decided otherwise; "" where they did."""
    if not same_drive(a, b) and (a.clock != b.clock or a.source != b.source):
        return "not of one drive"
    modes = {a.mode, b.mode}
    if len(modes) == 1:
        return ""
    if modes != {"live", "re-enacted"}:
        return f"other decisions about the frames: {a.mode} and {b.mode}"
    live = a if a.mode == "live" else b
    return "" if live.is_exact else "the live run saw pixels that its recording does not give back exactly"


def _settings(about: About) -> object:
    """What of a launch configuration decides what is said."""
    try:
        launch = msgspec.json.decode(about.launch or "{}")
    except msgspec.MsgspecError:
        return about.launch
    if not isinstance(launch, dict):
        return about.launch
    told = {name: launch.get(name) or {} for name in ("model", "tracking", "publish")}
    if not all(isinstance(table, dict) for table in told.values()):
        return about.launch
    model, tracking, publish = (dict(table) for table in told.values())
    # the model's hash and the engine that ran are compared, and threads decide nothing
    for name in ("path", "engine", "threads"):
        model.pop(name, None)
    tracking.pop("continue_for_s", None)  # of a node that is started again
    parts = (model, tracking, publish.get("encoding"), launch.get("topics"), launch.get("groups"), about.calibration)
    return msgspec.json.encode(parts, order="deterministic")


def _level(name: object) -> Level:
    for level in LEVELS:
        if level == name:
            return level
    raise ConfigError(f"level {name!r}: one of auto, {', '.join(LEVELS)}")
