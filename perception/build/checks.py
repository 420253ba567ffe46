"""What a launch file resolves to before any device is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from perception.config import Launch
from perception.errors import ConfigError
from perception.geometry import Camera, load_camera
from perception.keys import Curve, read_keys
from perception.labels import ClassTable
from perception.models.card import ModelFiles, find
from perception.protocols import SourceInfo
from perception.sinks.messages import TopicSpec, panoptic_topics, topic_spec

SHAPE_TOLERANCE = 0.01  # of the ratio of width to height


@dataclass(frozen=True)
class Checked:
    """What a launch file resolves to before any device is opened."""

    launch: Launch
    files: ModelFiles
    topics: tuple[TopicSpec, ...]
    calibration: Camera | None
    curve: Curve | None


def check_launch(launch: Launch) -> Checked:
    """Resolve everything that a launch file names.

    Raises:
        PerceptionError: the model, a class, a calibration or a key is not there or not right.
    """
    files = find(launch.model.path)
    curve = launch.publish.curve
    keys = Curve(read_keys(curve.secret), Path(curve.clients)) if curve else None
    if keys and not keys.clients.is_dir():
        raise ConfigError(
            f"publish.curve.clients: {keys.clients}: no such folder; make it, one public key file a client"
        )
    calibration = load_camera(launch.calibration) if launch.calibration else None
    return Checked(launch, files, topics_of(launch, files.card.class_table()), calibration, keys)


def topics_of(launch: Launch, classes: ClassTable) -> tuple[TopicSpec, ...]:
    """The topics that a launch file asks for, as classes of this model.

    Raises:
        ConfigError: a topic that neither the card nor the launch file describes, or a class that the model lacks.
    """
    groups = {**classes.groups, **launch.groups}
    specs: list[TopicSpec] = []
    for name in dict.fromkeys(launch.topics):
        if name in groups:
            specs.append(topic_spec(name, classes.indices(groups[name], f"groups.{name}"), classes.thing_ids))
        elif name == "panoptic":
            specs.extend(panoptic_topics(len(classes.names), classes.thing_ids))
        else:
            known = ", ".join(sorted([*groups, "panoptic"]))
            raise ConfigError(f"topics: no group of classes is called {name!r}; known: {known}; add it under [groups]")
    return tuple(specs)


def calibration_hash(checked: Checked) -> str:
    """What messages say of the calibration: 16 hex digits, "" without one."""
    return checked.calibration.content_hash if checked.calibration else ""


def check_calibration(checked: Checked, info: SourceInfo) -> None:
    """A calibration of another picture shape would put every pixel in the wrong place.

    Raises:
        ConfigError: the source's width and height are known and not in the calibration's ratio.
    """
    camera = checked.calibration
    if camera and info.width and abs(info.width * camera.height / (info.height * camera.width) - 1) > SHAPE_TOLERANCE:
        sizes = f"{camera.width}x{camera.height}, the source gives {info.width}x{info.height}"
        raise ConfigError(f"{checked.launch.calibration}: made for {sizes}: calibrate this camera, or leave it out")
