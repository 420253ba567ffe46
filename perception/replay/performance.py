"""A drive made ready to be gone through: what is stepped and how, from which state on, and in whose name."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from perception.build import about_of, build_source, calibration_hash, check_calibration, identity_of, replay_run
from perception.config import SourceConfig
from perception.drives.layout import About, Decision, StateRow
from perception.errors import RecordingError
from perception.replay import plans, what_if
from perception.replay.drive import RecordedDrive
from perception.replay.follow import Planned
from perception.replay.result import Sameness
from perception.replay.stage import Stage
from perception.replay.what_if import MachineSpeed, Policy
from perception.sinks.messages import Identity

LONGEST_S = 1e7
Mode = Literal["exact", "re-enacted", "what-if"]


@dataclass(frozen=True)
class Wishes:
    """How a drive is to be replayed.

    Args:
        begin_s, end_s: part of the drive, from its first frame [s]; it begins at the kept state before `begin_s`.
        policy, speed: of what-if; the launch configuration's and the recorded ones where they are None.
        slower: what-if on a machine that needs so many times as long.
    """

    mode: Mode = "exact"
    begin_s: float = 0.0
    end_s: float | None = None
    policy: Policy | None = None
    speed: MachineSpeed | None = None
    slower: float = 1.0


@dataclass(frozen=True, eq=False)
class Performance:
    """One drive on one stage."""

    plan: Iterable[Planned]
    identity: Identity
    about: About  # of the result
    total: int = 0  # frames; 0 where nobody knows
    state: StateRow | None = None  # to begin with
    sameness: Sameness | None = None  # with what was said then
    left_out: tuple[Decision, ...] = ()  # on frames that are not stepped
    begin_s: float = 0.0  # in the drive
    said: str = ""  # what was decided


def of_recording(drive: RecordedDrive, stage: Stage, wishes: Wishes) -> Performance:
    """A recording of ours. Raises PerceptionError where it can't be replayed as it is wished."""
    about, launch = drive.about, stage.launch
    _check_same(drive, stage, wishes.mode)
    whole_ns, first = drive.first_from(0.0).stamp_ns, drive.first_from(wishes.begin_s)
    window = (first.stamp_ns, whole_ns + round((wishes.end_s or LONGEST_S) * 1e9))
    state = _state_for(drive, stage, first, wishes)
    if state and state.frame_seq >= 0:
        window = (state.stamp_ns + 1, window[1])
    decisions, said = _decided(drive, stage, wishes, window, state.steps if state else 0)
    stepped = {d.frame_seq for d in decisions if d.what == "stepped"}
    if not stepped:
        raise RecordingError(f"{drive.recording.path}: no frame in this part of the drive: give another one")
    is_same = wishes.mode == "re-enacted"
    calls = plans.calls_after(stepped, drive.calls)
    plan = plans.of_drive(decisions, drive.frames(stepped, window[0]), launch.camera, calls, is_same)
    identity = _identity(drive, stage, wishes)
    result = about_of(stage.checked, identity, stage.engine, about.recording, wishes.mode, about.is_exact)
    return Performance(
        plan,
        identity,
        result,
        len(stepped),
        state,
        Sameness.with_recorded(drive.recording) if is_same else None,
        tuple(d for d in decisions if d.what != "stepped"),
        (window[0] - whole_ns) / 1e9,
        said,
    )


def _decided(
    drive: RecordedDrive, stage: Stage, wishes: Wishes, window: plans.Window, steps: int
) -> tuple[list[Decision], str]:
    """One decision a frame of the window, and a word on them."""
    every, engine = stage.launch.model.network_every, stage.engine
    match wishes.mode:
        case "exact":
            return plans.exact(drive.decisions, window, steps, every, engine), ""
        case "re-enacted":
            return plans.re_enacted(drive.decisions, window), ""
    captured = plans.re_enacted(drive.decisions, window)
    speed = (wishes.speed or what_if.measured(drive.decisions)).scaled(wishes.slower)
    decided = what_if.decide(captured, wishes.policy or Policy(every), speed)
    return list(decided), what_if.summary(decided)


def _state_for(drive: RecordedDrive, stage: Stage, first: Decision, wishes: Wishes) -> StateRow | None:
    """The state to begin with: re-enacted, always a kept one; else only where it saves the way from the start."""
    then = drive.launch()
    is_own = drive.about.model_id == stage.checked.files.identity and then.tracking == stage.launch.tracking
    if wishes.mode == "re-enacted" or (is_own and wishes.begin_s):
        return drive.state_before(first)
    return None


def _check_same(drive: RecordedDrive, stage: Stage, mode: Mode) -> None:
    about, files = drive.about, stage.checked.files
    if mode == "re-enacted" and about.model_id != files.identity:
        raise RecordingError(
            f"recorded with model {about.model} ({about.model_id}), here is {files.name} ({files.identity}): only the "
            "same model can decide the same; replay exactly, or ask what-if"
        )


def _identity(drive: RecordedDrive, stage: Stage, wishes: Wishes) -> Identity:
    """Re-enacted, the very run; else one that is named after all that decides its messages."""
    about, checked = drive.about, stage.checked
    run = about.run
    if wishes.mode != "re-enacted":
        text = f"{replay_run(checked, about.recording)} {msgspec.json.encode(wishes).decode()}"
        run = str(uuid.uuid5(uuid.NAMESPACE_OID, text))
    return Identity(
        run=run,
        camera=about.camera if wishes.mode == "re-enacted" else checked.launch.camera,
        classes=checked.files.card.class_table().names,
        clock=about.clock,
        wall_offset_ns=about.wall_offset_ns,
        model=checked.files.identity,
        calibration=calibration_hash(checked),
    )


def of_source(drive: str, stage: Stage, wishes: Wishes, stack: contextlib.ExitStack) -> Performance:
    """Anything else recorded, opened on `stack`. Raises PerceptionError where it can't be replayed as it is wished."""
    if wishes.mode != "exact":
        raise RecordingError(
            f"{drive}: not a recording of perception's, nothing is known of what was decided: replay it exactly"
        )
    checked, launch = stage.checked, stage.launch
    source_config = SourceConfig(url=drive, realtime=False, begin_s=wishes.begin_s, end_s=wishes.end_s)
    source = build_source(msgspec.structs.replace(launch, source=source_config))
    stack.callback(source.close)
    info = source.info()
    if info.clock != "drive":
        raise RecordingError(f"{drive}: a live source can't be replayed: record it first")
    check_calibration(checked, info)
    identity = identity_of(checked, info)
    plan = plans.of_source(source, launch.model.network_every, stage.engine)
    about = about_of(checked, identity, stage.engine, info.identity, "exact", True)
    return Performance(plan, identity, about)
