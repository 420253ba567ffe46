"""A launch file's wish to record, made into a recorder and its logbook; and what recordings say of themselves."""

from __future__ import annotations

import hashlib
import time
import uuid
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import msgspec

from perception.build.checks import Checked
from perception.config import Launch, RecordConfig
from perception.drives.layout import About, Machine
from perception.logbook import Logbook, Rewritten
from perception.machine import cores, cpu_name, host_name, versions
from perception.pipeline import Pipeline
from perception.sinks.messages import Identity
from perception.sinks.publisher import Publisher
from perception.sinks.recorder import Recorder, RecordSettings
from perception.sources.redact import redact


def about_of(
    checked: Checked, identity: Identity, engine: str, drive: str = "", mode: str = "live", is_exact: bool = False
) -> About:
    """What a recording of this run says of itself."""
    launch, files = checked.launch, checked.files
    recording, source = launch.recording, redact(launch.source.url)
    told = msgspec.structs.replace(launch, source=msgspec.structs.replace(launch.source, url=source))
    named = (files.graph, files.encoder, files.propagator)
    return About(
        recording=str(uuid.uuid4()),
        camera=identity.camera,
        run=identity.run,
        clock=identity.clock,
        wall_offset_ns=identity.wall_offset_ns,
        began_ns=time.time_ns(),
        launch=msgspec.json.encode(told).decode(),
        card=msgspec.json.encode(files.card).decode(),
        model=files.name,
        model_id=identity.model,
        graphs={path.name: _sha256(path) for path in named if path},
        calibration=Path(launch.calibration).read_text() if launch.calibration else "",
        engine=engine,
        machine=Machine(host_name(), cpu_name(), cores(), versions()),
        source=source,
        drive=drive,
        mode=mode,
        frames=recording.frames if recording and mode == "live" else "none",
        is_exact=is_exact,
    )


def recording_folder(launch: Launch, config: RecordConfig) -> Path:
    """A folder of this run's own, named after the camera and the time in UTC."""
    began = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    first = Path(config.folder) / f"{launch.camera}-{began}"
    return next(p for n in count(1) if not (p := first if n == 1 else Path(f"{first}-{n}")).exists())


def build_logbook(
    checked: Checked, identity: Identity, pipeline: Pipeline, publisher: Publisher, engine: str
) -> Logbook:
    """The recorder that a launch file asks for, told of everything that is published.

    Raises:
        RecordingError: the folder can't be made.
    """
    config = checked.launch.recording
    assert config is not None
    is_drive = identity.clock == "drive"
    is_exact = config.exact or config.frames in ("png", "raw")
    about = about_of(checked, identity, engine, is_exact=is_exact)
    settings = RecordSettings(
        frames=config.frames,
        quality=config.quality,
        masks=config.masks,
        segment_s=config.segment_s,
        ring_s=config.ring_s,
        after_s=config.after_s,
        when_full=config.when_full,
        least_free_bytes=round(config.least_free_gb * 1e9),
        waits=is_drive,
    )
    recorder = Recorder(recording_folder(checked.launch, config), about, settings)
    offset = None if is_drive else identity.wall_offset_ns
    rewritten = Rewritten(config.frames, config.quality) if config.exact else None
    saves = bool(config.ring_s) and "health" in config.triggers
    logbook = Logbook(recorder, pipeline, publisher.encoder, engine, offset, rewritten, saves)
    publisher.listener = logbook.sent
    return logbook


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
