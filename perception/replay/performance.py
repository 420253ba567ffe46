"""A drive made ready to be gone through: what is stepped and how, from which state on, and in whose name."""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import msgspec

from perception.build import about_of, build_source, calibration_hash, check_calibration, identity_of, replay_run
from perception.config import SourceConfig
from perception.drives import layout
from perception.drives.layout import About, Decision, StateRow
from perception.errors import RecordingError
from perception.replay import what_if
from perception.replay.deciding import AsThen, Decider, Exactly
from perception.replay.drive import RecordedDrive
from perception.replay.follow import Planned
from perception.replay.plans import Part, Turns, Walk
from perception.replay.plans import of_source as plan_of_source
from perception.replay.result import Sameness
from perception.replay.stage import Stage
from perception.replay.what_if import MachineSpeed, Policy, Simulation
from perception.sinks.messages import Identity

LONGEST_S = 1e7
MEASURED_NS = 60_000_000_000  # of the part, from which the machine's speed is known [ns]
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
    walk: Walk | None = None  # the plan, where it is of a recording
    begin_s: float = 0.0  # in the drive
    turns: Turns | None = None  # when the network looks; None: as the plan says
    from_start: Callable[[], Performance] | None = None  # the same, with the way there

    @property
    def is_first_state(self) -> bool:
        """Whether the state is of a node that had not done anything yet: there is nothing to take up from it."""
        state = self.state
        return state is not None and state.frame_seq < 0 and not any(state.seqs.values()) and not state.event_count


def of_recording(drive: RecordedDrive, stage: Stage, wishes: Wishes, takes_up: bool = True) -> Performance:
    """A recording of ours.

    Args:
        takes_up: begins at a kept state where that saves the way from the start.

    Raises:
        PerceptionError: it can't be replayed as it is wished.
    """
    about = drive.about
    _check_same(drive, stage, wishes.mode)
    first = drive.first_from(wishes.begin_s)
    state = _state_for(drive, stage, first, wishes) if takes_up else None
    is_whole = not takes_up or (wishes.mode == "re-enacted" and (state is None or state.frame_seq < 0))
    begin_ns = drive.first_ns if is_whole else state.stamp_ns + 1 if state else first.stamp_ns
    part = begin_ns, drive.first_ns + round((wishes.end_s or LONGEST_S) * 1e9)
    sameness = Sameness() if wishes.mode == "re-enacted" else None
    decider = _decider(drive, stage, wishes, part)
    walk = Walk(drive, decider, part, stage.launch.camera, sameness)
    identity = _identity(drive, stage, wishes)
    result = about_of(stage.checked, identity, stage.engine, about.recording, wishes.mode, about.is_exact)
    since_s, turns = (begin_ns - drive.first_ns) / 1e9, _turns(stage, wishes, state)
    is_then = wishes.mode == "re-enacted"
    asked = replace(wishes, begin_s=0.0) if is_then else wishes  # which name the run
    whole = functools.partial(of_recording, drive, stage, asked, is_then)
    return Performance(walk, identity, result, _count(drive, part), state, sameness, walk, since_s, turns, whole)


def _turns(stage: Stage, wishes: Wishes, state: StateRow | None) -> Turns | None:
    every = stage.launch.model.network_every
    match wishes.mode:
        case "exact":
            return Turns(every, state.steps if state else 0)
        case "what-if":
            return Turns(wishes.policy.network_every if wishes.policy else every)
        case _:
            return None


def _count(drive: RecordedDrive, part: Part) -> int:
    """About how many frames a part of a drive has, for a progress bar; 0 where nobody knows."""
    known = drive.recording.channels.get(layout.image(drive.about.camera))
    whole_ns = drive.last_ns - drive.first_ns
    if known is None or known.count is None or whole_ns <= 0:
        return 0
    return round(known.count * (min(part[1], drive.last_ns) - part[0]) / whole_ns)


def _decider(drive: RecordedDrive, stage: Stage, wishes: Wishes, part: Part) -> Decider:
    match wishes.mode:
        case "exact":
            return Exactly(stage.engine)
        case "re-enacted":
            return AsThen()
        case "what-if":
            return _simulation(drive, stage, wishes, part)
        case mode:
            raise RecordingError(f"mode {mode!r}: one of {', '.join(get_args(Mode))}")


def _simulation(drive: RecordedDrive, stage: Stage, wishes: Wishes, part: Part) -> Simulation:
    about, files = drive.about, stage.checked.files
    if wishes.speed is None and (about.engine, about.model_id) != (stage.engine, files.identity):
        raise RecordingError(
            f"the drive has the times of {about.model} on {about.engine}, not of {files.name} on {stage.engine}: give "
            "--network-ms and --carry-ms, or --model and --engine as then"
        )
    speed = wishes.speed or what_if.measured(drive.decisions_between(part[0], part[0] + MEASURED_NS))
    return Simulation(wishes.policy or Policy(stage.launch.model.network_every), speed.scaled(wishes.slower))


def _state_for(drive: RecordedDrive, stage: Stage, first: Decision, wishes: Wishes) -> StateRow | None:
    """The state to begin with: re-enacted, always a kept one; else only where it saves the way from the start."""
    then = drive.recorded_launch()
    is_own = drive.about.model_id == stage.checked.files.identity and then.tracking == stage.launch.tracking
    state = drive.state_before(first) if wishes.mode == "re-enacted" or (is_own and wishes.begin_s) else None
    is_first = state is not None and state.frame_seq < 0
    return None if is_first and wishes.mode != "re-enacted" else state


def _check_same(drive: RecordedDrive, stage: Stage, mode: Mode) -> None:
    about, files, where = drive.about, stage.checked.files, drive.recording.path
    if mode == "re-enacted" and about.mode == "converted":
        raise RecordingError(f"{where}: converted from another drive, nothing was decided about it: replay it exactly")
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
    plan = plan_of_source(source, stage.engine)
    about = about_of(checked, identity, stage.engine, info.identity, "exact", True)
    return Performance(plan, identity, about, turns=Turns(launch.model.network_every))
