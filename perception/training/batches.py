"""Batches of a fixed mixture of data sets, made in a thread beside the training step."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perception.training.augment import random_colour, random_crop
from perception.training.datasets import Dataset


@dataclass(frozen=True)
class Batch:
    """`images` (n, 3, h, w) float32 in [-1, 1]; `labels` (n, h, w) int64; exact samples come first."""

    images: Tensor
    labels: Tensor
    exact: int  # how many of the samples carry exact labels
    meaning: Tensor  # (v, c) bool of the coarse samples' label values


class Mixture:
    """`counts[name]` samples of each data set in every batch; sample choice and augmentation follow the seed."""

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        counts: Mapping[str, int],
        crop: tuple[int, int],
        scales: Mapping[str, tuple[float, float]],
        seed: int,
    ) -> None:
        # Exact sets first: the loss splits the batch in two.
        self.datasets = sorted(((datasets[n], c) for n, c in counts.items() if c), key=lambda d: not d[0].is_exact)
        self.crop, self.scales, self.seed = crop, scales, seed
        self.cache: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        coarse = [d for d, _ in self.datasets if not d.is_exact]
        if len(coarse) > 1:
            raise ValueError("one coarse label set at a time")
        self.meaning = torch.from_numpy(coarse[0].meaning) if coarse else torch.zeros(1, 1, dtype=torch.bool)

    def batch(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        images, labels, exact = [], [], 0
        for dataset, count in self.datasets:
            for i in self._choose(dataset, count, step):
                image, label = self._read(dataset, i)
                image, label = random_crop(image, label, self.crop, self.scales[dataset.name], rng)
                images.append(random_colour(image, rng))
                labels.append(label)
                exact += dataset.is_exact
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        return Batch(x, torch.from_numpy(np.stack(labels).astype(np.int64)), exact, self.meaning)

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches first..last-1, prepared ahead by one thread; an error there is raised here."""
        ready: queue.Queue[Batch | Exception] = queue.Queue(3)

        def prepare() -> None:
            try:
                for step in range(first, last):
                    ready.put(self.batch(step))
            except Exception as error:  # handed over to the training thread
                ready.put(error)

        threading.Thread(target=prepare, daemon=True, name="batches").start()
        for _ in range(first, last):
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item

    def _choose(self, dataset: Dataset, count: int, step: int) -> list[int]:
        """Every sample once per pass, in an order of its own for each pass."""
        chosen = []
        for k in range(step * count, (step + 1) * count):
            epoch, place = divmod(k, len(dataset))
            order = np.random.default_rng((self.seed, len(dataset), epoch)).permutation(len(dataset))
            chosen.append(int(order[place]))
        return chosen

    def _read(self, dataset: Dataset, i: int) -> tuple[np.ndarray, np.ndarray]:
        key = (dataset.name, i)
        if key not in self.cache:
            self.cache[key] = dataset.read(i)
        return self.cache[key]
