"""What lets a live run outlive its process: the checkpoint file, opened and kept up to date."""

from __future__ import annotations

import logging
import time

from perception.build.checks import Checked, calibration_hash
from perception.build.model import tracking_kind
from perception.continuity import About, CheckpointFile, Continuity, Numbers, digest, place
from perception.health import HealthReport
from perception.pipeline import Pipeline
from perception.propagation.continuation import Continued, remember, restore
from perception.protocols import SourceInfo
from perception.sinks.publisher import Publisher
from perception.sources.redact import shown

log = logging.getLogger(__name__)


def open_checkpoint(checked: Checked, info: SourceInfo) -> CheckpointFile | None:
    """The file by which a live node goes on after a restart; None for a drive, or where there can be no file."""
    launch = checked.launch
    path = place(launch.camera, launch.publish.endpoints)
    if path is None or info.clock == "drive" or not launch.tracking.continue_for_s:
        return None
    source, kind = digest(shown(launch.source.url)), tracking_kind(launch, checked.files)
    about = About(info.clock, launch.camera, source, checked.files.identity, calibration_hash(checked), kind)
    try:
        return CheckpointFile(path, about, round(launch.tracking.continue_for_s * 1e9))
    except OSError as error:
        log.warning("this run can't be continued after a restart: %s", error)
        return None


def build_continuity(
    checkpoint: CheckpointFile, pipeline: Pipeline, publisher: Publisher, report: HealthReport
) -> Continuity | None:
    """Goes on from what the file holds, or says on the health topic why not, and keeps it for the next process."""
    propagator, encoder = pipeline.propagator, publisher.encoder
    if not isinstance(propagator, Continued):
        return None
    report.refused = checkpoint.refused
    if found := checkpoint.found:
        now_ns = time.monotonic_ns()
        count = restore(propagator, found.identities, now_ns)
        encoder.continue_after(found.numbers.seqs, found.numbers.events)
        report.seq = found.numbers.health
        gap_s = (now_ns - found.identities.stamp_ns) / 1e9
        log.info("continuing run %s with %d tracks after %.1f s", found.run, count, gap_s)
    return Continuity(
        checkpoint,
        report.run,
        lambda stamp_ns: remember(propagator, stamp_ns),
        lambda: propagator.life.next_id,
        lambda: Numbers(encoder.seqs, encoder.event_count, report.seq),
    )
