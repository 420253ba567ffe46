"""Batches of a fixed mixture of data sets, made by threads beside the training step."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from perception.errors import ConfigError
from perception.training.augment import augmented, class_mixed
from perception.training.config import DataConfig, TrainingConfig
from perception.training.datasets import Dataset, Sample
from perception.training.label_set import IGNORE
from perception.training.losses import small_instance_weights
from perception.training.networks.config import INSTANCE_STRIDE
from perception.training.targets import PanopticTargets, panoptic_targets

T = TypeVar("T")
R = TypeVar("R")
Shape = tuple[int, int]  # height, width [px]


@dataclass(frozen=True)
class Batch:
    """n samples; the instance targets are None where the network has no such heads."""

    images: Tensor  # (n, 3, h, w) float32 in [-1, 1], channels last
    codes: Tensor  # (n, h, w) int64, see `label_set.Codes`
    centre: Tensor | None = None  # (n, 1, h/t, w/t) float32; t: the network's stride of them
    offset: Tensor | None = None  # (n, 2, h/t, w/t) float32 [px]
    is_thing: Tensor | None = None  # (n, 1, h/t, w/t) float32
    is_known: Tensor | None = None  # (n, 1, h/t, w/t) float32
    weight: Tensor | None = None  # (n, h, w) float32 weight of each pixel in the semantic loss
    is_taught: Tensor | None = None  # (n,) bool: which samples a teacher looks at; None: all

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""
        return replace(self, **{name: t if t is None else t.to(device) for name, t in vars(self).items()})


class Mixture:
    """So many samples of each data set in every batch; which ones and how they are changed follows from the seed."""

    def __init__(self, datasets: Sequence[Dataset], config: TrainingConfig) -> None:
        self.datasets = tuple(datasets)
        self.config = config
        self._cache = _Cache(config.cache_mb * 2**20)

    @property
    def epoch_steps(self) -> int:
        """Steps of a pass over the first data set."""
        first = self.datasets[0]
        return -(-len(first) // self.config.data[first.name].samples)

    def batch(self, step: int) -> Batch:
        """The batch of a step: the same whenever it is asked for. Raises ConfigError for a file that is wrong."""
        samples = list(self.samples(step))
        images = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2)
        x = images.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)
        codes = torch.from_numpy(np.stack([s.labels for s in samples]).astype(np.int64))
        weight, is_taught = self._weight(samples), self._is_taught()
        return Batch(x, codes, weight=weight, is_taught=is_taught, **self._instance_targets(samples))

    def samples(self, step: int) -> Iterator[Sample]:
        """The augmented samples of a step, data set by data set."""
        rng = np.random.default_rng((self.config.seed, step))
        for dataset in self.datasets:
            config: DataConfig = self.config.data[dataset.name]
            places = chosen(len(dataset), config.samples, step, (self.config.seed, *dataset.name.encode()))
            samples = [
                augmented(self._cache.get(dataset, i), self.config.crop, config.scale, self.config.augment, rng)
                for i in places
            ]
            yield from self._mixed(samples, rng)

    def _mixed(self, samples: Sequence[Sample], rng: np.random.Generator) -> Iterator[Sample]:
        """Some of the samples of one data set, each mixed with the next; a lone one stays what it is."""
        chance = self.config.augment.mix
        for under, over in zip(samples, [*samples[1:], *samples[:1]], strict=True):
            is_mixed = chance and len(samples) > 1 and rng.random() < chance
            yield class_mixed(under, over, rng) if is_mixed else under

    def batches(self, first: int, last: int) -> Generator[Batch, None, None]:
        """Batches first..last-1 in order, prepared ahead; an error of a preparing thread is raised here."""
        workers = self.config.workers
        pool = ThreadPoolExecutor(workers, "batches")
        ahead: deque[Future[Batch]] = deque()
        try:
            for step in range(first, min(last, first + workers + 2)):
                ahead.append(pool.submit(self.batch, step))
            for step in range(first, last):
                batch = ahead.popleft().result()
                if step + workers + 2 < last:
                    ahead.append(pool.submit(self.batch, step + workers + 2))
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def check(self, also: Sequence[Dataset], progress: Callable[[int, int], None]) -> dict[str, dict[Shape, Path]]:
        """Read every file once, those of `also` too, which also fills the cache.

        Returns: by data set, a picture of each size that it has.

        Raises:
            ConfigError: files are wrong: how many of which data set, and what is the matter with the first.
        """
        jobs = [(dataset, i) for dataset in (*self.datasets, *also) for i in range(len(dataset))]
        wrong: dict[str, list[str]] = {}
        shapes: dict[str, dict[Shape, Path]] = {}
        with closing(_mapped(self._found, jobs, self.config.workers)) as results:
            for done, ((dataset, i), found) in enumerate(zip(jobs, results, strict=True)):
                if isinstance(found, str):
                    wrong.setdefault(dataset.name, []).append(found)
                else:
                    shapes.setdefault(dataset.name, {}).setdefault(found, dataset.files[i].image)
                progress(done + 1, len(jobs))
        for name, problems in wrong.items():
            count = f"{len(problems)} of {sum(d.name == name for d, _ in jobs)} samples are wrong; first: "
            raise ConfigError(f"data set {name!r}: {count if len(problems) > 1 else ''}{problems[0]}")
        return shapes

    def _found(self, job: tuple[Dataset, int]) -> Shape | str:
        """Height and width of a sample, or what is wrong with it."""
        try:
            height, width = self._cache.get(*job).labels.shape
        except ConfigError as error:
            return str(error)
        return height, width

    def _instance_targets(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        if not self.config.has_instances:
            return {}
        loss, stride = self.config.loss, INSTANCE_STRIDE[self.config.network.kind]
        targets = [
            panoptic_targets(s.instances, stride, loss.sigma, loss.offset_balance, s.labels != IGNORE) for s in samples
        ]
        planes = zip(PanopticTargets._fields, zip(*targets, strict=True), strict=True)
        return {name: torch.from_numpy(np.stack(plane)) for name, plane in planes}

    def _is_taught(self) -> Tensor | None:
        configs = [self.config.data[dataset.name] for dataset in self.datasets]
        if self.config.teacher is None or all(config.taught for config in configs):
            return None
        return torch.tensor([config.taught for config in configs for _ in range(config.samples)])

    def _weight(self, samples: Sequence[Sample]) -> Tensor | None:
        factor = self.config.loss.small_instances
        if factor == 1.0:
            return None
        return torch.from_numpy(np.stack([small_instance_weights(s.instances, factor) for s in samples]))


def _mapped(function: Callable[[T], R], jobs: Sequence[T], workers: int) -> Generator[R, None, None]:
    """Results in order; closing it early, on Ctrl-C for one, drops the jobs that have not begun."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(function, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def chosen(length: int, count: int, step: int, seed: tuple[int, ...]) -> list[int]:
    """Indices of a step's samples: every sample once per pass, in an order of its own for each pass."""
    places = (divmod(k, length) for k in range(step * count, (step + 1) * count))
    return [int(_order(length, (*seed, epoch))[place]) for epoch, place in places]


@lru_cache(maxsize=32)
def _order(length: int, seed: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).permutation(length)


class _Cache:
    """Decoded samples, until they fill `limit` bytes; which are kept depends on the order of reading only."""

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._kept: dict[tuple[str, int], Sample] = {}
        self._lock = threading.Lock()

    def get(self, dataset: Dataset, i: int) -> Sample:
        key = (dataset.name, i)
        sample = self._kept.get(key)
        if sample is None:
            sample = dataset.read(i)
            size = sum(plane.nbytes for plane in sample)
            with self._lock:
                if size <= self._room and key not in self._kept:
                    self._room -= size
                    self._kept[key] = sample
        return sample
