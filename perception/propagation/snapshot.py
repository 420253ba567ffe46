"""Exact snapshots of a propagator between two frames: one that takes it up says the same from the next frame on.

Unlike `continuation`, which lets identities outlive a process, this keeps every bit that decides a later scene.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import zstandard

from perception import types
from perception.errors import SnapshotError
from perception.propagation import affinity, change, claim, memory, motion, rules, seeding, tracks
from perception.propagation.affinity import AffinityCarrier
from perception.propagation.change import Fingerprint, SceneChange
from perception.propagation.field_types import fits, hints_of
from perception.propagation.fusion import FusedPropagator
from perception.propagation.iou import IouPropagator
from perception.propagation.meeting import Meeting
from perception.propagation.memory import MemoryCarrier
from perception.propagation.prompting import Prompting
from perception.propagation.publishing import ClassMap
from perception.propagation.roster import Roster
from perception.propagation.slots import SlotTable
from perception.propagation.state_graph import (
    REF,
    Flattening,
    Kinds,
    Node,
    ObjectNode,
    PartNode,
    Rebuilding,
    Role,
    Value,
    damaged,
    encoded,
    of_another_version,
)
from perception.propagation.stuff import StuffSmoother
from perception.propagation.tracks import LifeCycle
from perception.protocols import Propagator
from perception.types import TrackState

FORMAT = b"PSNAP\x03"
"""First bytes of every snapshot; the last one is the version of what follows: a hash, and msgpack."""
_HASH = 16  # [bytes]
_LEVEL = 1  # of zstd: float32 hardly shrinks at any
_SAME = "use the model and the settings of the drive"


PARTS: dict[type, Role] = {
    IouPropagator: Role(settings=("mask_size", "least_iou")),
    FusedPropagator: Role(settings=("mask_size", "rules"), momentary=("_last",), own=("_masks",)),
    LifeCycle: Role(settings=("confirm_hits", "lost_for_ns")),
    Roster: Role(settings=("rules",)),
    Meeting: Role(),
    Prompting: Role(),
    SlotTable: Role(),
    SceneChange: Role(settings=("longest_step_ns",), own=("_small",), pictures=("_image",)),
    ClassMap: Role(settings=("_size", "_is_stuff")),
    StuffSmoother: Role(
        settings=("_classes", "_untouched", "_shape", "_step", "_cells"),
        own=("_blank", "_flow", "_grid", "_cell_grid", "_first", "_places"),
    ),
    AffinityCarrier: Role(settings=("slots", "cheap_slots"), momentary=("_now",)),
    MemoryCarrier: Role(
        settings=("slots", "cheap_slots", "_slots", "_shapes"), own=("engine", "_told", "_keepers", "_loaded")
    ),
}
"""The classes that a propagator is built of; all others below are values that come and go."""

_MODULES = (affinity, change, claim, memory, motion, rules, seeding, tracks, types)
OBJECTS: dict[str, type] = {
    name: kind
    for module in _MODULES
    for name, kind in vars(module).items()
    if hasattr(kind, "__dataclass_fields__") and kind.__module__ == module.__name__ and kind not in PARTS
}
KINDS = Kinds(PARTS, OBJECTS, {TrackState.__name__: TrackState})


class _Payload(msgspec.Struct, frozen=True, array_like=True):
    schema: dict[str, list[str]]  # the fields of every dataclass in it
    root: int
    nodes: list[Node]


@dataclass(frozen=True, slots=True)
class Copied:
    """A propagator's state in memory, that shares nothing with it which may change."""

    nodes: list[Any]
    root: int

    def encode(self) -> bytes:
        """The snapshot's bytes; equal states give equal bytes. Takes 1 to 100 ms, in any thread."""
        compressor = zstandard.ZstdCompressor(level=_LEVEL)
        nodes = [encoded(node, compressor) for node in self.nodes]
        kinds = sorted({node.kind for node in nodes if isinstance(node, ObjectNode)})
        schema = {kind: [*hints_of(OBJECTS[kind])] for kind in kinds}
        return _sealed(msgspec.msgpack.encode(_Payload(schema, self.root, nodes)))


def copy(propagator: Propagator) -> Copied:
    """Everything that decides what the propagator says from the next `step` on; quick, for the thread that steps it.

    What is only needed for prompts on the frame stepped last is left out: what has been asked must be answered before.

    Raises:
        SnapshotError: it holds something of an unknown class.
    """
    if isinstance(propagator, FusedPropagator) and isinstance(propagator.carrier, MemoryCarrier):
        propagator.carrier.settle()
    flattening = Flattening(KINDS)
    _, root = flattening.value(propagator)
    return Copied(flattening.nodes, root)


def take(propagator: Propagator) -> bytes:
    """`copy` and `Copied.encode` in one."""
    return copy(propagator).encode()


def put(propagator: Propagator, data: bytes) -> None:
    """Let a propagator of the same kind, model and settings go on from a snapshot; what it knew before is forgotten.

    Raises:
        SnapshotError: damaged, or of another version, kind, model or setting; the propagator is then as it was.
    """
    payload = _opened(data)
    for kind, names in payload.schema.items():
        known = OBJECTS.get(kind)
        if known is None or [*hints_of(known)] != names:
            raise of_another_version(f"its {kind} has {', '.join(names)}")
    try:
        rebuilding = Rebuilding(KINDS, payload.nodes)
        taking_up = _TakingUp(rebuilding)
        taking_up.part(propagator, rebuilding.part_or_value((REF, payload.root)), "propagator")
    except (TypeError, ValueError, KeyError, RecursionError, zstandard.ZstdError) as error:
        raise damaged(" ".join(str(error).split())) from None
    for part, name, value in taking_up.assignments:
        setattr(part, name, value)


class _TakingUp:
    """Meets a propagator's parts with those of a snapshot; nothing is changed before all has been checked."""

    def __init__(self, rebuilding: Rebuilding) -> None:
        self.assignments: list[tuple[Any, str, Any]] = []
        self._rebuilding = rebuilding
        self._met: dict[int, Any] = {}  # id of a part's node -> the part

    def part(self, part: Any, node: Any, where: str) -> None:
        if type(part) not in PARTS or not isinstance(node, PartNode) or node.kind != type(part).__name__:
            raise SnapshotError(f"the snapshot's {where} is {_named(node)}, here it is {_named(part)}: {_SAME}")
        if id(node) in self._met:
            if self._met[id(node)] is not part:
                raise damaged(f"two {where}")
            return
        self._met[id(node)] = part
        role = PARTS[type(part)]
        if set(vars(part)) - role.unstored != set(node.fields):
            raise of_another_version(f"its {node.kind} has {', '.join(node.fields)}")
        for name in role.settings:
            self._setting(part, name, node.fields[name])
        self.assignments += [(part, name, None) for name in role.momentary]
        for name, value in node.fields.items():
            if name not in role.settings:
                self._field(part, name, value, name in role.pictures)

    def _setting(self, part: Any, name: str, value: Value) -> None:
        now, then = getattr(part, name), self._rebuilding.value(value)
        if not _is_equal(now, then):
            told = "" if isinstance(now, np.ndarray) else f": {_brief(then)}, here {_brief(now)}"
            raise SnapshotError(f"the snapshot is of another {type(part).__name__}.{name}{told}; {_SAME}")

    def _field(self, part: Any, name: str, value: Value, is_picture: bool) -> None:
        now, then = getattr(part, name), self._rebuilding.part_or_value(value)
        if type(now) in PARTS or isinstance(then, PartNode):
            self.part(now, then, name.strip("_"))
        elif fits(then, Fingerprint | None) if is_picture else _is_alike(now, then):
            self.assignments.append((part, name, then))
        else:
            raise damaged(f"{type(part).__name__}.{name} is {_brief(then)}")


def _named(part: Any) -> str:
    """Its class, or "none"."""
    return part.kind if isinstance(part, PartNode) else "none" if part is None else type(part).__name__


def _brief(value: Any) -> str:
    text = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_equal(now: Any, then: Any) -> bool:
    if isinstance(now, np.ndarray):
        return _is_alike(now, then) and np.array_equal(now, then)
    return type(now) is type(then) and now == then


def _is_alike(now: Any, then: Any) -> bool:
    """Whether a field can hold this as well: arrays keep their size and type, collections their kind."""
    if now is None or then is None:
        return True
    if isinstance(now, np.ndarray):
        return isinstance(then, np.ndarray) and (now.dtype, now.shape) == (then.dtype, then.shape)
    return type(now) is type(then)


# The bytes


def _sealed(body: bytes) -> bytes:
    return FORMAT + hashlib.blake2b(body, digest_size=_HASH).digest() + body


def _opened(data: bytes) -> _Payload:
    """Raises SnapshotError for what `_sealed` has not made."""
    start = len(FORMAT)
    if data[: start - 1] != FORMAT[:-1]:
        raise damaged(f"it does not begin with {FORMAT[:-1].decode()}")
    if data[:start] != FORMAT:
        raise of_another_version(f"format {data[start - 1 : start].hex() or 'none'}, here {FORMAT[-1:].hex()}")
    told, body = data[start : start + _HASH], data[start + _HASH :]
    if hashlib.blake2b(body, digest_size=_HASH).digest() != told:
        raise damaged("its checksum is another")
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise damaged(" ".join(str(error).split())) from None


_DECODER = msgspec.msgpack.Decoder(_Payload)
