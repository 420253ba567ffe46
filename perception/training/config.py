"""What a training configuration may say; docs/training.md explains every key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from perception.errors import ConfigError
from perception.strict_toml import check, read_tables
from perception.training.networks.config import INSTANCE_STRIDE, NetworkConfig

VERSION = 1
VALIDATION = "validation"  # the name under which --data gives the validation pictures' folder
FOLDER = Path(__file__).parent / "configs"
CLASSES = (
    "sky", "building", "pole", "road", "sidewalk", "tree",
    "sign", "fence", "car", "pedestrian", "bicyclist", "lane marking",
)  # fmt: skip
THINGS = ("car", "pedestrian", "bicyclist")

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
ClassName = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]  # as a model's card takes it
Chance = Annotated[float, msgspec.Meta(ge=0, le=1)]
Weight = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Side = Annotated[int, msgspec.Meta(ge=32, le=4096, multiple_of=16)]  # [px]
Scale = Annotated[float, msgspec.Meta(ge=0.05, le=20)]


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One data set of the mixture. `{name}` in the patterns stands for what pairs a picture with its labels."""

    label_set: str  # a shipped one's name, or a .toml file
    folder: str = ""  # may be left to --data NAME=FOLDER
    samples: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1  # in every batch
    scale: tuple[Scale, Scale] = (0.5, 2.0)  # drawn log-uniformly
    instances: Literal["exact", "components", "none"] = "none"
    image_files: str = "images/{name}.*"
    label_files: str = "labels/{name}.png"
    instance_files: str = "instances/{name}.png"
    least_instance: Annotated[int, msgspec.Meta(ge=1, le=65534)] = 1  # instance values below it are crowds
    taught: bool = True  # a [teacher] looks at it too; exact truth needs none


class ValidationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The pictures that choose the best checkpoint. Their label set must be exact."""

    label_set: str
    folder: str = ""  # may be left to --data validation=FOLDER
    size: tuple[Side, Side] | None = None  # network input (height, width) [px]; None: the picture's own
    every_steps: Annotated[int, msgspec.Meta(ge=0)] = 0  # 0: after each epoch, a pass over the first data set
    take_every: Annotated[int, msgspec.Meta(ge=1)] = 1  # of the pictures, each n-th
    image_files: str = "images/{name}.*"
    label_files: str = "labels/{name}.png"


class AugmentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Ranges are drawn uniformly, factors about 1; chances are per picture."""

    aspect: tuple[float, float] = (-0.1, 0.22)  # log of the root of the width-to-height factor
    flip: Chance = 0.5
    mix: Chance = 0.0  # half of the classes of another sample of the same data set are laid over it
    saturation: tuple[float, float] = (0.5, 1.5)
    contrast: tuple[float, float] = (0.6, 1.4)
    brightness: tuple[float, float] = (0.65, 1.35)
    tint: tuple[float, float] = (0.9, 1.1)  # of each channel
    log_gamma: tuple[float, float] = (-0.3, 0.3)
    blur: Chance = 0.2
    noise: Chance = 0.2
    night: Chance = 0.0
    rain: Chance = 0.0


class LossConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Weights of the parts of the loss; 0 leaves a part out."""

    semantic: dict[str, Weight] = msgspec.field(default_factory=lambda: {"ohem": 1.0, "dice": 0.5})  # on exact pixels
    coarse: Weight = 1.0  # set cross-entropy on coarse pixels, times their share of the labelled ones
    auxiliary: Weight = 0.4
    centre: Weight = 200.0
    offset: Weight = 0.01
    sigma: Annotated[float, msgspec.Meta(gt=0, le=64)] = 8.0  # of the centres' Gaussians [px]
    offset_balance: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0  # offsets of a thing of n cells weigh n^-balance
    small_instances: Weight = 1.0  # weight of the pixels of small instances in "ce" and "ohem"
    hardest_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1 / 3  # of "ohem"
    stride: Literal[1, 2, 4] = 1  # the semantic loss looks at each n-th pixel


class OptimizerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    kind: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1e-3
    backbone_factor: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.0  # the pretrained part learns slower
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.02
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9  # of sgd
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    power: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.9  # of poly
    warmup: Annotated[int, msgspec.Meta(ge=0)] = 50  # [steps]
    frozen_stages: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0  # so many backbone stages keep their start weights
    only: tuple[str, ...] = ()  # parts of the network that learn; the others keep their start weights
    clip: Annotated[float, msgspec.Meta(ge=0)] = 5.0  # greatest gradient norm; 0: none
    skip_above: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # a step is skipped beyond this norm; 0: never


class TeacherConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Distillation: the student also learns the softened probabilities of trained networks."""

    checkpoint: str | Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]  # of the same classes; several: their mean
    mirrored: bool = False  # with what each says of the mirror image
    scales: Annotated[tuple[Scale, ...], msgspec.Meta(min_length=1)] = (1.0,)  # of the crop, that each looks at
    weight: Weight = 1.0
    temperature: Annotated[float, msgspec.Meta(gt=0, le=100)] = 2.0


class CheckpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When last.safetensors is written besides at each validation and at the end."""

    every_minutes: Annotated[float, msgspec.Meta(ge=0)] = 5.0  # 0: not by time
    every_steps: Annotated[int, msgspec.Meta(ge=0)] = 0  # 0: not by steps
    wait_s: Annotated[float, msgspec.Meta(ge=0)] = 600.0  # at the end of a run, for room on a full disk


class TrainingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A training configuration."""

    version: Literal[1]
    steps: Annotated[int, msgspec.Meta(ge=1)]
    data: Annotated[dict[Name, DataConfig], msgspec.Meta(min_length=1)]
    validation: ValidationConfig | None = None
    classes: Annotated[tuple[ClassName, ...], msgspec.Meta(min_length=2, max_length=200)] = CLASSES
    things: tuple[str, ...] = THINGS
    crop: tuple[Side, Side] = (352, 480)  # height, width [px]
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    start: str = ""  # ImageNet weights (.npz) for the backbone, or a checkpoint (.safetensors)
    average: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.998  # decay of the averaged weights; 0: no averaging
    deterministic: bool = True  # on a GPU: the same seed gives the same weights, at some cost of speed
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1  # threads that prepare batches
    cache_mb: Annotated[int, msgspec.Meta(ge=0)] = 2048  # decoded pictures kept in memory
    log_steps: Annotated[int, msgspec.Meta(ge=1)] = 20  # a row of log.csv
    network: NetworkConfig = NetworkConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    teacher: TeacherConfig | None = None
    checkpoint: CheckpointConfig = CheckpointConfig()

    @property
    def has_instances(self) -> bool:
        """True where the network has centre and offset heads that the loss counts."""
        return self.network.kind in INSTANCE_STRIDE and self.loss.centre + self.loss.offset > 0


def shipped_configs() -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in FOLDER.glob("*.toml")))


def read_training_config(name: str) -> tuple[TrainingConfig, Path]:
    """A shipped configuration by its name, or a file; and the folder where its relative paths start.

    A shipped one has no files beside it: its paths start in the working directory.

    Raises:
        ConfigError: one line with file, key path and what was expected.
    """
    path = Path(name)
    if not name.endswith(".toml"):
        path = FOLDER / f"{name}.toml"
        if not path.is_file():
            known = ", ".join(shipped_configs())
            raise ConfigError(f"configuration {name!r}: there is none; name a .toml file or one of {known}")
    tables = read_tables(path)
    if tables.get("version") != VERSION:
        raise ConfigError(f"{path}: version {tables.get('version')!r}: the first line must be version = {VERSION}")
    config = check(tables, TrainingConfig, str(path))
    check_rules(config, str(path))
    return config, path.parent if name.endswith(".toml") else Path()


def check_rules(config: TrainingConfig, where: str) -> None:
    """What the types alone can't say; raises ConfigError naming the key."""
    strange = next((t for t in config.things if t not in config.classes), None)
    if strange is not None:
        raise ConfigError(f"{where}: things: {strange!r} is not one of the classes: {', '.join(config.classes)}")
    if len(set(config.classes)) != len(config.classes):
        raise ConfigError(f"{where}: classes: a name is listed twice")
    if VALIDATION in config.data:
        raise ConfigError(f"{where}: data.{VALIDATION}: the name is taken; call the data set otherwise")
    ranges = {f"data.{n}.scale": d.scale for n, d in config.data.items()}
    augment = config.augment
    ranges |= {f"augment.{k}": getattr(augment, k) for k in ("aspect", "saturation", "contrast", "log_gamma")}
    ranges |= {f"augment.{k}": getattr(augment, k) for k in ("brightness", "tint")}
    for key, (low, high) in ranges.items():
        if not low <= high:
            raise ConfigError(f"{where}: {key}: [{low}, {high}] is upside down; write the lower bound first")
    loss = config.loss
    if not (any(loss.semantic.values()) or loss.coarse or loss.auxiliary or config.has_instances):
        raise ConfigError(f"{where}: loss: every weight is 0; nothing would be learnt")
    if config.teacher and not any(d.taught for d in config.data.values()):
        raise ConfigError(f"{where}: data: every data set has taught = false; leave one of them to the [teacher]")
