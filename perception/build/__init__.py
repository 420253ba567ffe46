"""A launch file to objects: the only room that names concrete classes."""

from __future__ import annotations

from perception.build.checks import (
    Checked,
    calibration_hash,
    check_calibration,
    check_launch,
    check_node,
    topics_of,
)
from perception.build.continuity import build_continuity, open_checkpoint
from perception.build.identity import identity_of, replay_run
from perception.build.logbook import about_of, build_logbook
from perception.build.model import (
    build_model,
    build_pipeline,
    build_propagator,
    give_features,
    open_model,
    tracking_kind,
)
from perception.build.node import build_control, build_node, build_publisher, build_report, build_source, listen
from perception.build.preflight import Preflight, preflight

__all__ = [
    "Checked",
    "Preflight",
    "about_of",
    "build_continuity",
    "build_control",
    "build_logbook",
    "build_model",
    "build_node",
    "build_pipeline",
    "build_propagator",
    "build_publisher",
    "build_report",
    "build_source",
    "calibration_hash",
    "check_calibration",
    "check_launch",
    "check_node",
    "give_features",
    "identity_of",
    "listen",
    "open_checkpoint",
    "open_model",
    "preflight",
    "replay_run",
    "topics_of",
    "tracking_kind",
]
