"""What a launch file resolves to before any device is opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from perception.config import Launch
from perception.errors import ConfigError, EndpointError
from perception.geometry import Camera, load_camera
from perception.keys import Curve, known_clients, read_keys
from perception.labels import ClassTable
from perception.models.card import ModelFiles, find
from perception.protocols import SourceInfo
from perception.sinks.endpoints import checked as as_bound
from perception.sinks.messages import Identity, SceneEncoder, TopicSpec, panoptic_topics, topic_spec
from perception.types import Frame

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


def check_node(launch: Launch) -> Checked:
    """Resolve everything that a launch file names, and what a node is to serve with it. Nothing is opened or made.

    Raises:
        PerceptionError: as `check_launch`; or a class, a topic, an endpoint or a client's key can't be.
    """
    checked = check_launch(launch)
    classes = checked.files.card.class_table()
    for name, wanted in launch.groups.items():  # those that no topic names too: nobody would ever see the mistake
        classes.indices(wanted, f"groups.{name}")
    SceneEncoder(Identity("", launch.camera, classes.names), checked.topics)  # it refuses topics that can't be
    if checked.curve:
        known_clients(checked.curve.clients)
    _check_endpoints(launch)
    return checked


def _check_endpoints(launch: Launch) -> None:
    """Raises EndpointError for one that no node could bind, whatever else runs on this machine."""
    publish, control = launch.publish, launch.control.endpoint
    curve = publish.curve is not None
    places = [as_bound(place, encrypted=curve, insecure=publish.insecure) for place in publish.endpoints]
    places += [as_bound(control, encrypted=curve, insecure=None)] if control else []
    for place in places:
        if places.count(place) > 1 and not place.endswith(":*"):
            raise EndpointError(f"endpoint {place} is given twice: leave one out, or choose another")
        folder = Path(place.removeprefix("ipc://")).parent
        # whose it is does not count: who checks the file need not be the user that the node runs as
        if place.startswith("ipc://") and folder.is_dir() and folder.stat().st_mode & 0o077:
            fix = f"chmod 700 {folder}, or name a folder of your own"
            raise EndpointError(f"endpoint {place}: {folder} is open to other users: {fix}")


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


def check_first_frame(checked: Checked, info: SourceInfo, frames: Iterator[Frame]) -> Iterator[Frame]:
    """The frames as they are, once the first has told what a live source can't before: its size.

    Raises:
        ConfigError: that size is not in the calibration's ratio.
    """
    first = next(frames, None)
    if first is None:
        return
    height, width = first.image.shape[:2]
    check_calibration(checked, replace(info, width=width, height=height))
    yield first
    yield from frames
