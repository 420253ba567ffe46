"""`perception train-memory` and `perception export-memory` as plain functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import msgspec
import numpy as np
from torch import nn

from perception.errors import ConfigError
from perception.training.checkpoint import load_network, shipped_or
from perception.training.config import CLASSES, THINGS, read_training_config
from perception.training.datasets import Dataset, open_dataset
from perception.training.interruption import interruption
from perception.training.label_set import Codes
from perception.training.networks.memory import SLOTS
from perception.training.propagator.checkpoint import load_reader
from perception.training.propagator.clip import Clip
from perception.training.propagator.features import EncodedClip, encode_clip, read_clip, write_clip
from perception.training.propagator.pasted_clips import Cutout, all_cutouts, pasted_clip
from perception.training.propagator.rendered_clips import rendered_clip
from perception.training.propagator.run_file import require_same_run
from perception.training.propagator.trainer import LAST, ReaderTrainer, Settings
from perception.training.run_folder import held

RENDERED_FRAMES, PASTED_FRAMES = 10, 8
FIRST_SEED = 2000  # of the rendered clips; seeds below 1000 are held out, those from 1000 train the network
EVERY_VALIDATION = 17  # each n-th clip is not trained on
LEAST_CLIPS = 2
MOST_CUTOUTS = 400
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    network: str  # a checkpoint of `perception train`, or a shipped one's name
    run: Path
    folders: Mapping[str, Path]  # of the data sets of configs/road.toml that are there
    rendered: int = 170  # clips
    pasted: int = 240
    start: Path | None = None
    resume: bool = False
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True)
class Outcome:
    step: int
    is_complete: bool
    validation: dict[str, float]  # empty where not complete


def train_memory(request: Request, progress: Progress) -> Outcome:
    """Make the clips that are not there yet, train, validate.

    Raises:
        PerceptionError: a data set, the network's checkpoint or the run's folder is not what it must be, or another
            training runs in the folder.
    """
    run = request.run
    _require_resume(request)
    source = shipped_or(Path(request.network))
    network, _ = load_network(source)
    if not hasattr(network, "encode"):
        raise ConfigError(f"{request.network}: a network without keys; the memory needs a panoptic one")
    begun = load_reader(request.start) if request.start and not (run / LAST).exists() else None
    planned = list(_planned(request))  # opens the data sets: what is wrong there is said before minutes of work
    if len(planned) < LEAST_CLIPS:
        raise ConfigError(f"--rendered and --pasted: {LEAST_CLIPS} clips at least, one to train on and one to score")
    with held(run, "clips"), interruption() as asked_to_stop:
        has_run = _require_resume(request)  # once more: another training may have been here meanwhile
        noted = _noted(request, source)
        require_same_run(run, noted)
        clips = _clips(planned, network, str(noted["network"]), progress, asked_to_stop)
        if clips is None:
            return Outcome(0, False, {})
        taught = [c for i, c in enumerate(clips) if i % EVERY_VALIDATION]
        trainer = ReaderTrainer(request.settings, run, taught, clips[::EVERY_VALIDATION])
        if has_run:
            trainer.resume()
        elif begun and request.start:
            trainer.start(begun, request.start)
        is_complete = trainer.train(progress, asked_to_stop)
        return Outcome(trainer.step, is_complete, trainer.validate() if is_complete else {})


def _require_resume(request: Request) -> bool:
    """Whether the folder holds a run; raises ConfigError where it does and is not to be resumed."""
    has_run = (request.run / LAST).exists()
    if has_run and not request.resume:
        raise ConfigError(f"{request.run}: holds a run already; go on with --resume, or name another folder with --run")
    return has_run


def _noted(request: Request, network: Path) -> dict[str, object]:
    """What clips and weights depend on."""
    settings = request.settings
    return {
        "network": hashlib.sha256(network.read_bytes()).hexdigest(),
        "data": sorted(request.folders) if request.pasted else [],
        "rendered": request.rendered,
        "pasted": request.pasted,
        "steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "seed": settings.seed,
    }


def _clips(
    planned: Sequence[tuple[Path, Callable[[], Clip]]],
    network: nn.Module,
    sha256: str,
    progress: Progress,
    asked_to_stop: Callable[[], bool],
) -> list[EncodedClip] | None:
    """The run's clips, made where they are missing; None when asked to stop meanwhile.

    Args:
        sha256: of the network's checkpoint; clips may have been copied here that another one saw.
    """
    found = []
    for i, (path, make) in enumerate(planned):
        if asked_to_stop():
            return None
        if not path.exists():
            write_clip(encode_clip(network, make()), path, sha256)
        found.append(read_clip(path, sha256))
        progress("clips through the encoder", i + 1, len(planned))
    return found


def _planned(request: Request) -> Iterator[tuple[Path, Callable[[], Clip]]]:
    """Where each clip belongs, and how to make it: by its number alone, so that any of them can be made anew."""
    folder = request.run / "clips"
    for i in range(request.rendered):
        make = partial(rendered_clip, FIRST_SEED + i, RENDERED_FRAMES, SLOTS)
        yield folder / f"rendered-{i:04d}.safetensors", make
    if request.pasted:
        paste = Pasting(_datasets(request.folders), request.settings.seed)
        for i in range(request.pasted):
            yield folder / f"pasted-{i:04d}.safetensors", partial(paste, i)


class Pasting:
    """Makes the pasted clip of any number; the cut-outs are gathered when the first is made."""

    def __init__(self, datasets: list[Dataset], seed: int) -> None:
        self.datasets, self.seed = datasets, seed

    @cached_property
    def cutouts(self) -> list[Cutout]:
        return all_cutouts(self.datasets, MOST_CUTOUTS, np.random.default_rng(self.seed))

    def __call__(self, number: int) -> Clip:
        rng = np.random.default_rng([self.seed, number])
        dataset = self.datasets[int(rng.integers(len(self.datasets)))]
        sample = dataset.read(int(rng.integers(len(dataset))))
        return pasted_clip(sample, self.cutouts, PASTED_FRAMES, SLOTS, rng)


def _datasets(folders: Mapping[str, Path]) -> list[Dataset]:
    """The data sets of configs/road.toml whose folders are given."""
    config, _ = read_training_config("road")
    unknown = sorted(set(folders) - set(config.data))
    if unknown:
        raise ConfigError(f"--data {unknown[0]}: not one of {', '.join(config.data)}")
    if not folders:
        raise ConfigError("pasted clips need pictures: --data camvid=FOLDER, idd_lite or rendered, or --pasted 0")
    codes = Codes(CLASSES)
    found = []
    for name in sorted(folders):  # a clip is the same whatever the order on the command line
        data = msgspec.structs.replace(config.data[name], folder=str(folders[name]))
        found.append(open_dataset(name, data, codes, THINGS, Path()))
    return found
