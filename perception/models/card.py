"""A model is a graph and a card: `name.onnx` beside `name.toml`. The card says what the graph does not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from perception.errors import ModelError
from perception.labels import ClassTable
from perception.strict_toml import read_toml

Positive = Annotated[int, msgspec.Meta(ge=1, le=16384)]
Three = tuple[float, float, float]


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the graph wants to see. A pixel p of 0..255 becomes (p * scale - mean) / std, per channel."""

    width: Positive
    height: Positive
    name: str = "image"
    layout: Literal["NHWC", "NCHW"] = "NCHW"
    colour: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1 / 255
    mean: Three = (0.0, 0.0, 0.0)
    std: Three = (1.0, 1.0, 1.0)


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the graph gives: class indices, or one score map a class (any size; the node takes the argmax)."""

    name: str
    form: Literal["labels", "logits"] = "logits"
    confidence: str = ""  # name of an output with the winning class's probability, where the graph has one
    centre: str = ""  # kind "panoptic": output (1, 1, h', w'), heat at the centres of things
    offset: str = ""  # kind "panoptic": output (1, 2, h', w'), (dy, dx) to the centre of its thing [px of the input]
    # Kind "panoptic", where the graph has them, all four: what a propagator tells things apart by; h, w the mask's.
    keys: str = ""  # output (1, d, h/16, w/16), alike where the same thing is in two images
    context: str = ""  # output (1, c, h/16, w/16), rather what it is than which one
    fine8: str = ""  # output (1, c, h/8, w/8)
    fine4: str = ""  # output (1, c, h/4, w/4)

    def feature_names(self) -> dict[str, str]:
        """The encoder's outputs as the card names them, in the order of `types.Features`; all or none.

        A card with `keys` alone is of a graph that was exported before there were four; it gives no features.
        """
        names = {"keys": self.keys, "context": self.context, "fine8": self.fine8, "fine4": self.fine4}
        return names if all(names.values()) else {}

    def instance_names(self) -> dict[str, str]:
        """The outputs that only a panoptic graph has, as the card names them; those that it leaves out are ""."""
        names = {"centre": self.centre, "offset": self.offset, "keys": self.keys, "context": self.context}
        return names | {"fine8": self.fine8, "fine4": self.fine4}

    def __post_init__(self) -> None:
        finer = {"context": self.context, "fine8": self.fine8, "fine4": self.fine4}
        if any(finer.values()) and not self.feature_names():
            lacks = next(name for name, value in ({"keys": self.keys} | finer).items() if not value)
            raise ValueError(f"output.{lacks} is missing: keys, context, fine8 and fine4 go together, or none of them")


class SideGraph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A further graph that belongs to a panoptic one."""

    graph: Annotated[str, msgspec.Meta(pattern=r"^[^/\\]+\.onnx$")]  # its file name, beside the card
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]  # checked at load


class Grouping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How centres and offsets of a panoptic graph become things (Cheng et al. 2020, section 3.3)."""

    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1  # centres below this heat are none
    kernel: Annotated[int, msgspec.Meta(ge=1, le=31)] = 3  # two centres are further apart than half of it [cells], odd
    most: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 200  # centres in one image; the hottest are kept
    heat_power: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.2  # of a centre's heat in its segment's score
    vote_spread: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.3  # of votes [sides] that halves a score; 0: none
    stuff_area: Annotated[int, msgspec.Meta(ge=0)] = 0  # a stuff class with fewer pixels is none [px at 640x360]
    small_stuff: Literal["void", "neighbour"] = "void"  # what its pixels become
    kept: tuple[str, ...] = ()  # stuff that stays however small

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; it must be odd, so that it has a middle")

    def vote_weight(self, finer: float) -> float:
        """How much a vote's distance from its centre [px of the input] counts; 0: not at all.

        Weighted so, a mean distance of the root of a segment's area halves its score. `finer` is how many pixels of the
        class map one of the input is wide.
        """
        return finer / self.vote_spread if self.vote_spread else 0.0


class ModelClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    thing: bool = False
    min_area: Annotated[int, msgspec.Meta(ge=0)] = 40  # smaller segments of a thing are noise [px at 640x360]


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything the node must know of a model; `perception models` prints it."""

    card: Literal[1]
    kind: Literal["semantic", "panoptic"]
    input: Input
    output: Output
    classes: Annotated[tuple[ModelClass, ...], msgspec.Meta(min_length=1, max_length=250)]
    grouping: Grouping = Grouping()
    encoder: SideGraph | None = None  # gives the features alone, for frames that the whole graph skips
    propagator: SideGraph | None = None  # a memory reader trained on these features (kind = "memory")
    topics: dict[str, tuple[str, ...]] = {}
    description: str = ""
    sha256: str = ""  # of the graph; checked at load where given: damaged graphs can load silently
    data: str = ""  # what it was trained on
    licence: str = ""
    figures: dict[str, str] = {}

    def __post_init__(self) -> None:
        named = {key for key, name in self.output.instance_names().items() if name}
        if self.kind == "semantic" and named:
            raise ValueError(f'output.{min(named)} belongs to kind = "panoptic"; this card says "semantic"')
        if self.kind == "semantic" and self.grouping != Grouping():
            raise ValueError('[grouping] belongs to kind = "panoptic"; this card says "semantic"')
        unknown = set(self.grouping.kept) - {c.name for c in self.classes if not c.thing}
        if unknown:
            raise ValueError(f"grouping.kept: {min(unknown)!r} is no class of this card, or a thing")
        if self.kind == "panoptic" and not {"centre", "offset"} <= named:
            raise ValueError('kind = "panoptic" needs output.centre and output.offset, the names of those outputs')
        if self.encoder and not self.output.feature_names():
            raise ValueError("[encoder] gives output.keys, context, fine8 and fine4, which this card does not name")
        if self.propagator and not self.output.feature_names():
            raise ValueError("[propagator] reads output.keys, context, fine8 and fine4, which this card does not name")

    def kept_stuff(self) -> list[int]:
        """Class indices of the stuff that stays however small."""
        return [i for i, c in enumerate(self.classes) if c.name in self.grouping.kept]

    def class_table(self) -> ClassTable:
        things = frozenset(c.name for c in self.classes if c.thing)
        return ClassTable(tuple(c.name for c in self.classes), things, self.topics)

    def facts(self, files: ModelFiles) -> dict[str, str]:
        """The card as lines for people."""
        i = self.input
        lines = {"model": f"{files.name} ({files.graph}, {files.graph.stat().st_size / 1e6:.1f} MB)"}
        lines |= {"": self.description} if self.description else {}
        lines |= {"identity": files.identity, "kind": self.kind}
        lines |= {"input": f"{i.width}x{i.height} {i.colour} {i.layout}"}
        lines |= {"features": ", ".join(self.output.feature_names()) or "none"} if self.kind == "panoptic" else {}
        sides = {"encoder": files.encoder, "propagator": files.propagator}
        lines |= {name: f"{p} ({p.stat().st_size / 1e6:.1f} MB)" for name, p in sides.items() if p}
        lines |= {"things": ", ".join(c.name for c in self.classes if c.thing) or "none"}
        lines |= {"stuff": ", ".join(c.name for c in self.classes if not c.thing) or "none"}
        lines |= {f"topic {name}": ", ".join(classes) for name, classes in self.topics.items()}
        lines |= {"data": self.data or "not said", "licence": self.licence or "not said"}
        return lines | dict(self.figures)


class ModelFiles(msgspec.Struct, frozen=True):
    """A graph on disk with its checked card and its content hash."""

    graph: Path
    card: Card
    sha256: str  # of the graph, hexadecimal

    @property
    def encoder(self) -> Path | None:
        """The graph that gives only the features, where the card names one."""
        return self.graph.with_name(self.card.encoder.graph) if self.card.encoder else None

    @property
    def propagator(self) -> Path | None:
        """The graph that carries masks by these features, where the card names one."""
        return self.graph.with_name(self.card.propagator.graph) if self.card.propagator else None

    @property
    def name(self) -> str:
        return self.graph.stem

    @property
    def identity(self) -> str:
        """First 16 hex digits over graph and card: what the wire calls the model."""
        text = self.sha256 + repr(msgspec.json.encode(self.card, order="deterministic"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


WEIGHTS = Path(__file__).parent.parent / "weights"
DEFAULT_MODEL = "road"


def shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.stem for p in WEIGHTS.glob("*.toml") if p.with_suffix(".onnx").exists())


def find(model: str) -> ModelFiles:
    """A shipped model by name, or a graph by path with its card beside it.

    Raises:
        ModelError: no such model, no card, a card with a mistake, or a graph or an encoder that is not the card's.
    """
    graph = WEIGHTS / f"{model or DEFAULT_MODEL}.onnx"
    if not graph.exists():
        graph = Path(model)
    if graph.suffix in {".pt", ".pth", ".pkl", ".pickle"}:
        raise ModelError(f"{graph}: pickled weights are never loaded; export the model to ONNX")
    if not graph.is_file():
        raise ModelError(f"{model}: no such file, and no shipped model of that name ({', '.join(shipped())})")
    card_path = graph.with_suffix(".toml")
    if not card_path.is_file():
        raise ModelError(f"{graph}: its card {card_path.name} is missing; docs/models.md shows the ten lines it needs")
    card = read_toml(card_path, Card)
    card.class_table()
    files = ModelFiles(graph, card, checked_sha256(graph, card.sha256, card_path.name))
    for side, path in ((card.encoder, files.encoder), (card.propagator, files.propagator)):
        if side and path:
            if not path.is_file():
                raise ModelError(f"{path}: no such file; {card_path.name} names it: put it back, or export again")
            checked_sha256(path, side.sha256, card_path.name)
    return files


def checked_sha256(graph: Path, wanted: str, card: str) -> str:
    """The content hash of a graph, hexadecimal. Raises ModelError where the card says another one."""
    sha256 = hashlib.sha256(graph.read_bytes()).hexdigest()
    if wanted and wanted != sha256:
        raise ModelError(f"{graph}: not what {card} describes: sha256 {sha256[:16]}..., not {wanted[:16]}...")
    return sha256
