"""What a run is called: by chance where it is live, by all that decides its masks where it is a replay."""

from __future__ import annotations

import time
import uuid

import msgspec

from perception.build.checks import Checked, calibration_hash
from perception.protocols import SourceInfo
from perception.sinks.messages import Identity


def identity_of(checked: Checked, info: SourceInfo, run: str = "") -> Identity:
    """The run's name and clock. A drive's run is named after its content, so that two replays say the same.

    Args:
        run: one to go on with.
    """
    is_drive = info.clock == "drive"
    run = replay_run(checked, info.identity) if is_drive else run or str(uuid.uuid4())
    return Identity(
        run=run,
        camera=checked.launch.camera,
        classes=checked.files.card.class_table().names,
        clock=info.clock,
        wall_offset_ns=0 if is_drive else time.time_ns() - time.monotonic_ns(),
        model=checked.files.identity,
        calibration=calibration_hash(checked),
    )


def replay_run(checked: Checked, drive: str) -> str:
    """UUID of everything that decides the masks: drive, model and the settings of network and tracking."""
    launch = checked.launch
    tracking = msgspec.structs.replace(launch.tracking, continue_for_s=0.0)  # decides nothing about a drive
    decides = (drive, checked.files.identity, calibration_hash(checked), launch.camera, launch.model.network_every)
    text = msgspec.json.encode((decides, tracking, launch.topics, launch.groups), order="deterministic")
    return str(uuid.uuid5(uuid.NAMESPACE_OID, text.decode()))
