"""Objects of known classes as a flat list of nodes, and back: what a snapshot holds where pickle would hold code.

Every object has one node, so that what is shared stays shared, and comes after all that it refers to, so that there are
no cycles. Order of dictionaries, layout of arrays and types of numbers are kept, as each can decide a last bit.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any, NamedTuple

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from perception.errors import SnapshotError, SnapshotVersionError
from perception.propagation.change import Fingerprint, fingerprint
from perception.propagation.field_types import fits, hints_of

DTYPES = {np.dtype(name).str: np.dtype(name) for name in ("?", "u1", "i1", "u2", "i2", "i4", "i8", "f2", "f4", "f8")}
LARGEST = 1 << 29  # [bytes] of all arrays; the training-free carrier with 32 things at 1280x704 has 100 MB
PLAIN = (type(None), bool, int, float, str)
REF, TUPLE, ENUM = "ref", "tuple", "enum"

Value = Any  # of PLAIN, or (REF, node), (TUPLE, value, ...), (ENUM, class, value)


class ArrayNode(msgspec.Struct, frozen=True, array_like=True, tag="array"):
    dtype: str
    axes: tuple[int, ...]  # from the outermost in memory to the innermost
    shape: tuple[int, ...]  # in the order of `axes`
    is_writable: bool
    data: bytes  # zstd


class ScalarNode(msgspec.Struct, frozen=True, array_like=True, tag="scalar"):
    dtype: str
    data: bytes


class PictureNode(msgspec.Struct, frozen=True, array_like=True, tag="picture"):
    """A camera's picture, of which only the fingerprint matters."""

    shape: tuple[int, ...]
    sha256: bytes


class ItemsNode(msgspec.Struct, frozen=True, array_like=True, tag="items"):
    """A list, deque, dict or Counter; of the latter two keys and values in turn."""

    kind: str
    items: list[Value]
    most: int | None = None  # of a deque


class ObjectNode(msgspec.Struct, frozen=True, array_like=True, tag="object"):
    """A dataclass; its fields in the order of the schema."""

    kind: str
    values: list[Value]


class PartNode(msgspec.Struct, frozen=True, array_like=True, tag="part"):
    """A part of the propagator, that another propagator has as well."""

    kind: str
    fields: dict[str, Value]


Node = ArrayNode | ScalarNode | PictureNode | ItemsNode | ObjectNode | PartNode


class Role(NamedTuple):
    """What becomes of a part's fields; those that are not named are stored and taken up."""

    settings: tuple[str, ...] = ()  # stored, and must be the same where they are taken up
    own: tuple[str, ...] = ()  # not stored: wiring, room to write into, and what follows from settings
    momentary: tuple[str, ...] = ()  # not stored, None afterwards: only needed for the frame stepped last
    pictures: tuple[str, ...] = ()  # only the fingerprint is stored

    @property
    def unstored(self) -> set[str]:
        return {*self.own, *self.momentary}


class Kinds(NamedTuple):
    """The classes that are known; an object of any other is an error."""

    parts: Mapping[type, Role]
    objects: Mapping[str, type]  # dataclasses
    enums: Mapping[str, type[Enum]]


class Flattening:
    """Writes down a propagator's objects as they are now: arrays copied, everything else by value.

    Read-only arrays and pictures are not copied: who made an array read-only has promised never to change it.

    Raises:
        SnapshotError: an object of an unknown class, or with a field that its class does not declare.
    """

    def __init__(self, kinds: Kinds) -> None:
        self.nodes: list[Any] = []  # Node, or an array that is still to be encoded
        self._kinds = kinds
        self._places: dict[int, int] = {}  # id -> node; the propagator keeps the objects alive meanwhile

    def value(self, x: Any) -> Value:
        kind = type(x)
        if kind in PLAIN:
            return x
        if kind is tuple:
            return (TUPLE, *map(self.value, x))
        if isinstance(x, Enum):
            if self._kinds.enums.get(kind.__name__) is not kind:
                raise _unknown(kind)
            return (ENUM, kind.__name__, x.value)
        place = self._places.get(id(x))
        return (REF, self._add(x, self._node(x)) if place is None else place)

    def _add(self, x: Any, node: Any) -> int:
        self.nodes.append(node)
        place = self._places[id(x)] = len(self.nodes) - 1
        return place

    def _node(self, x: Any) -> Any:
        kind = type(x)
        if kind is np.ndarray:
            if x.dtype.str not in DTYPES:
                raise _unknown(x.dtype.name)
            return x.copy(order="K") if x.flags.writeable else x
        if isinstance(x, np.generic):
            return ScalarNode(x.dtype.str, x.tobytes())
        if kind is list:
            return ItemsNode("list", [*map(self.value, x)])
        if kind is deque:
            return ItemsNode("deque", [*map(self.value, x)], x.maxlen)
        if kind is dict or kind is Counter:
            items = [self.value(part) for pair in x.items() for part in pair]
            return ItemsNode("dict" if kind is dict else "counter", items)
        if kind in self._kinds.parts:
            return self._part(x, self._kinds.parts[kind])
        return self._object(x)

    def _part(self, x: Any, role: Role) -> PartNode:
        fields = {}
        for name, value in vars(x).items():
            if name not in role.unstored:
                fields[name] = self._picture(value) if name in role.pictures else self.value(value)
        return PartNode(type(x).__name__, fields)

    def _picture(self, picture: NDArray[np.uint8] | Fingerprint | None) -> Value:
        return None if picture is None else (REF, self._add(picture, _Picture(picture)))

    def _object(self, x: Any) -> ObjectNode:
        kind = type(x)
        if self._kinds.objects.get(kind.__name__) is not kind:
            raise _unknown(kind)
        names = hints_of(kind)
        if hasattr(x, "__dict__") and not set(vars(x)) <= set(names):
            raise SnapshotError(f"{kind.__name__} has other fields than it declares: {', '.join(vars(x))}")
        return ObjectNode(kind.__name__, [self.value(getattr(x, name)) for name in names])


class _Picture(NamedTuple):
    """A picture whose fingerprint is still to be taken."""

    picture: NDArray[np.uint8] | Fingerprint


def _unknown(kind: Any) -> SnapshotError:
    return SnapshotError(f"no snapshot can hold a {getattr(kind, '__qualname__', kind)}: it is of no known class")


def encoded(node: Any, compressor: zstandard.ZstdCompressor) -> Node:
    """The slow part of `Flattening`: arrays as bytes, pictures as fingerprints."""
    if isinstance(node, np.ndarray):
        axes = sorted(range(node.ndim), key=lambda i: -node.strides[i])
        inner = np.ascontiguousarray(node.transpose(axes))
        shape = inner.shape if node.ndim else ()
        # straight from the array's memory, which lets other threads run
        data = compressor.compress(inner.reshape(-1).view(np.uint8).data)
        return ArrayNode(node.dtype.str, tuple(axes), shape, node.flags.writeable, data)
    if isinstance(node, _Picture):
        picture = node.picture
        known = picture if isinstance(picture, Fingerprint) else fingerprint(picture)
        return PictureNode(known.shape, known.sha256)
    return node


class Rebuilding:
    """New objects from nodes, in their order; parts stay nodes.

    Raises:
        SnapshotError: nodes that no `Flattening` makes.
    """

    def __init__(self, kinds: Kinds, nodes: Collection[Node]) -> None:
        self.made: list[Any] = []
        self._kinds, self._left = kinds, LARGEST
        self._decompressor = zstandard.ZstdDecompressor()
        for node in nodes:
            self.made.append(node if isinstance(node, PartNode) else self._made(node))

    def value(self, value: Value) -> Any:
        """An object that is no part."""
        found = self.part_or_value(value)
        if isinstance(found, PartNode):
            raise damaged(f"a {found.kind} where a value should be")
        return found

    def part_or_value(self, value: Value) -> Any:
        if type(value) in PLAIN:
            return value
        if not isinstance(value, list | tuple) or not value:
            raise damaged("a value of no kind")
        tag, rest = value[0], list[Any](value[1:])
        if tag == TUPLE:
            return tuple(map(self.value, rest))
        if tag == REF and len(rest) == 1 and type(rest[0]) is int and 0 <= rest[0] < len(self.made):
            return self.made[rest[0]]
        if tag == ENUM and len(rest) == 2:
            return self._kinds.enums[str(rest[0])](rest[1])
        raise damaged("a value of no kind")

    def _made(self, node: Node) -> Any:
        match node:
            case ArrayNode():
                return self._array(node)
            case ScalarNode():
                return np.frombuffer(node.data, _dtype(node.dtype), 1)[0]
            case PictureNode():
                return Fingerprint(node.shape, node.sha256)
            case ItemsNode():
                return self._items(node)
            case ObjectNode():
                return self._object(node)
        raise damaged("a node of no kind")

    def _array(self, node: ArrayNode) -> NDArray:
        dtype = _dtype(node.dtype)
        is_possible = sorted(node.axes) == list(range(len(node.shape))) and all(n >= 0 for n in node.shape)
        size = math.prod(node.shape) * dtype.itemsize
        self._left -= size
        # what a frame of zstd says of its size is allocated before anything is unpacked
        if not is_possible or self._left < 0 or zstandard.frame_content_size(node.data) != size:
            raise damaged(f"an array of {node.shape}, which is more than there is or may be")
        unpacked = self._decompressor.decompress(node.data, max_output_size=size, allow_extra_data=False)
        inner = np.frombuffer(unpacked, dtype).copy().reshape(node.shape)
        array = inner.transpose(np.argsort(node.axes)) if node.axes else inner
        array.setflags(write=node.is_writable)
        return array

    def _items(self, node: ItemsNode) -> Any:
        items = [*map(self.value, node.items)]
        match node.kind:
            case "list":
                return items
            case "deque":
                return deque(items, node.most)
            case "dict" | "counter":
                pairs = dict(zip(items[::2], items[1::2], strict=True))
                return pairs if node.kind == "dict" else Counter(pairs)
        raise damaged(f"a collection of the kind {node.kind!r}")

    def _object(self, node: ObjectNode) -> Any:
        kind = self._kinds.objects.get(node.kind)
        if kind is None:
            raise of_another_version(f"it knows {node.kind}")
        made = object.__new__(kind)
        for (name, hint), value in zip(hints_of(kind).items(), map(self.value, node.values), strict=True):
            if not fits(value, hint):
                raise damaged(f"{node.kind}.{name} is a {type(value).__name__}")
            object.__setattr__(made, name, value)
        return made


def of_another_version(what: str) -> SnapshotVersionError:
    told = "the snapshot is of another version of this program: replay with the version that made it"
    return SnapshotVersionError(f"{told} ({what})")


def damaged(what: str) -> SnapshotError:
    return SnapshotError(f"the snapshot is damaged ({what}): start from another one, or from the drive's beginning")


def _dtype(name: str) -> np.dtype:
    if name not in DTYPES:
        raise damaged(f"an array of {name!r}")
    return DTYPES[name]
