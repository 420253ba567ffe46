"""Batches of short sequences cut out of clips: other lengths, directions, windows, and objects left out."""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np
import torch
from torch import Tensor

from perception.errors import ConfigError
from perception.training.networks.memory import Encoded
from perception.training.propagator.features import EncodedClip, window
from perception.training.propagator.rollout import Sequence, soft_masks

COLUMNS = 40  # of a whole frame [cells of 1/16]
# width [cells], sequences in a batch, chance: narrow windows cost a quarter, whole frames have the true distractors
WINDOWS = ((20, 4, 0.5), (28, 3, 0.3), (COLUMNS, 2, 0.2))
LENGTHS = ((4, 0.4), (5, 0.4), (7, 0.2))
LEFT_OUT = 0.4  # chance that some objects are not followed: they become distractors


class SequenceSampler:
    """Draws batches; the same seed draws the same.

    Args:
        clips: those with objects are drawn, the more often the more objects they have.

    Raises:
        ConfigError: no clip has an object.
    """

    def __init__(self, clips: Many[EncodedClip], seed: int) -> None:
        self.clips = [clip for clip in clips if clip.objects]
        if not self.clips:
            raise ConfigError(
                "no clip to train on shows any object; make more with --rendered and --pasted, in another --run"
            )
        weight = np.array([1.0 + 2 * min(clip.objects, 6) for clip in self.clips])
        self._chance = weight / weight.sum()
        self._seed = seed

    def batch(self, step: int) -> Sequence:
        rng = np.random.default_rng([self._seed, step])
        width, count, _ = WINDOWS[int(rng.choice(len(WINDOWS), p=[w[2] for w in WINDOWS]))]
        length = LENGTHS[int(rng.choice(len(LENGTHS), p=[n[1] for n in LENGTHS]))][0]
        count = max(1, count // 2) if length > 5 else count
        chosen = rng.choice(len(self.clips), count, p=self._chance)
        return stacked([self._cut(self.clips[int(i)], length, width, rng) for i in chosen])

    def _cut(
        self, clip: EncodedClip, length: int, width: int, rng: np.random.Generator
    ) -> tuple[list[Encoded], Tensor, Tensor]:
        stride = int(rng.integers(1, 3)) if clip.frames >= 2 * length - 1 else 1
        first = int(rng.integers(0, clip.frames - stride * (length - 1)))
        frames = list(range(first, first + stride * length, stride))
        if rng.random() < 0.5:
            frames.reverse()
        period = abs(float(clip.stamps_s[1] - clip.stamps_s[0])) * stride
        shown = self._followed(clip.ids[frames], rng)
        features, ids = window(clip, frames, self._columns(shown, width, rng))
        ids[~torch.isin(ids, shown.unique())] = 0
        return features, ids, period * torch.arange(length)

    @staticmethod
    def _followed(ids: Tensor, rng: np.random.Generator) -> Tensor:
        """Now and then some of the objects (n, h, w) are left out; the first frame's, where it has any, not all."""
        if rng.random() >= LEFT_OUT:
            return ids
        present = (ids[0] if bool(ids[0].any()) else ids).unique().tolist()
        present = [k for k in present if k]
        kept = int(rng.choice(present)) if present else 0
        dropped = [k for k in range(1, int(ids.max()) + 1) if rng.random() < 0.5 and k != kept]
        return torch.where(torch.isin(ids, torch.tensor(dropped, dtype=ids.dtype)), 0, ids)

    @staticmethod
    def _columns(ids: Tensor, width: int, rng: np.random.Generator) -> tuple[int, int]:
        """A window that shows an object of the first frame where it has any, else of a later one."""
        first = (ids[0] > 0).any(0)
        taken = torch.nonzero(first if bool(first.any()) else (ids > 0).any(1).any(0)).flatten().numpy()
        middle = float(rng.choice(taken)) / 8 if len(taken) else COLUMNS / 2
        aside = float(np.clip(rng.normal(0, 4), 1 - width / 2, width / 2 - 1))  # its column stays in the window
        left = int(np.clip(round(middle - width / 2 + aside), 0, COLUMNS - width))
        return left, left + width


def whole(clip: EncodedClip, length: int) -> Sequence:
    """The first frames of a clip as they are, for validation."""
    frames = list(range(min(length, clip.frames)))
    features, ids = window(clip, frames, (0, COLUMNS))
    return stacked([(features, ids, clip.stamps_s[frames] - clip.stamps_s[0])])


def stacked(parts: Many[tuple[list[Encoded], Tensor, Tensor]]) -> Sequence:
    length = len(parts[0][0])
    features = [Encoded(*map(torch.cat, zip(*(p[0][t] for p in parts), strict=True))) for t in range(length)]
    masks = [soft_masks(torch.stack([p[1][t] for p in parts])) for t in range(length)]
    return Sequence(features, masks, torch.stack([p[2] for p in parts]).float())
