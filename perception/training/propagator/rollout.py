"""A clip rolled out as the node steps through one: the reader's own masks go back into its memory, now and then a
network's sighting corrects them, objects appear, hide and come back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from perception.training.networks.memory import (
    ENTRIES,
    SLOTS,
    Carried,
    Encoded,
    MemoryReader,
    Write,
    empty_memory,
)

VISIBLE = 1.5  # [cells of 1/4] a true mask of less is hidden
SEEN_SHARE = 0.4  # of the frames, those that the network looks at
FOUND_SHARE = 0.85  # of the visible objects, those that it then finds
HARDEST = 0.1  # of the pixels carry the cross-entropy (Yang et al. 2021, AOT, section 4.1, take 0.15)
SLOPPY = 0.25  # share of the sightings that are too large, and of those that are too small
HIDDEN_WEIGHT = 6.0  # of a hidden object in the loss of presence: there are far fewer of them
POINTER_SHARE = 0.15  # of a pointer that one good frame replaces
WEIGHTS = {"ce": 1.0, "jaccard": 1.0, "presence": 0.2, "quality": 0.2}  # of the parts in the loss


@dataclass(frozen=True)
class Sequence:
    """A batch of b clips of n frames."""

    features: list[Encoded]  # n of them
    masks: list[Tensor]  # n of (b, SLOTS, h/4, w/4) in [0, 1]
    stamps_s: Tensor  # (b, n)


def soft_masks(ids: Tensor) -> Tensor:
    """(b, h/2, w/2) ids up to SLOTS -> (b, SLOTS, h/4, w/4) the share of each cell that an object has."""
    one_hot = torch.stack([ids == k for k in range(1, SLOTS + 1)], 1).float()
    return F.avg_pool2d(one_hot, 2)


def sloppy(masks: Tensor) -> Tensor:
    """True masks as a network would see them: of every few objects one a little too large, one too small."""
    kind = torch.rand(masks.shape[:2])[..., None, None]
    grown = F.max_pool2d(masks, 3, 1, 1)
    shrunk = -F.max_pool2d(-masks, 3, 1, 1)
    return torch.where(kind < SLOPPY, grown, torch.where(kind > 1 - SLOPPY, shrunk, masks))


@dataclass
class Rollout:
    """What the node's fusion would keep between two frames, for a batch."""

    masks: Tensor  # (b, SLOTS, h/4, w/4)
    active: Tensor  # (b, SLOTS)
    seen_s: Tensor  # (b, SLOTS) when the network last saw it
    taught: Tensor  # (b, SLOTS)
    filled: Tensor  # (b, ENTRIES)
    entry: Tensor  # (b, ENTRIES)

    @classmethod
    def empty(cls, like: Tensor) -> Rollout:
        b, zeros = like.shape[0], torch.zeros(like.shape[0], SLOTS)
        return cls(torch.zeros_like(like), zeros, zeros.clone(), zeros.clone(), *torch.zeros(2, b, ENTRIES))

    def write(self, now_s: Tensor) -> Write:
        age = now_s[:, None] - self.seen_s
        return Write(self.masks, self.entry, torch.ones_like(age), self.taught, self.active, age, self.filled)

    def fuse(self, carried: Carried, truth: Tensor, now_s: Tensor, t: int, is_seen: bool, stride: int) -> None:
        """Births and corrections as a network gives them; its misses leave what was carried."""
        soft = carried.probabilities[:, 1:]
        visible = truth.sum((2, 3)) > VISIBLE
        born = visible & (self.active == 0) & (is_seen or t == 0)
        found = torch.rand(visible.shape) < FOUND_SHARE
        corrected = born | (visible & found & is_seen & (self.active > 0))
        here = (carried.presence > 0).float() * self.active
        self.masks = torch.where(corrected[..., None, None], sloppy(truth), soft * here[..., None, None])
        # a cell belongs to its objects once only
        self.masks = self.masks / self.masks.sum(1, keepdim=True).clamp(min=1)
        self.taught = torch.where(born, 1.0, POINTER_SHARE * (corrected | (here > 0)).float())
        self.active = torch.where(born, 1.0, self.active)
        self.seen_s = torch.where(corrected, now_s[:, None], self.seen_s)
        self._place(t, is_seen, stride)

    def _place(self, t: int, is_seen: bool, stride: int) -> None:
        """The entries that this frame goes to: the last always, the recent one now and then, key frames when seen."""
        takes = torch.tensor([1.0, float(t % stride == 0), float(t == 0), float(is_seen and t > 1 and t % 3 == 0)])
        self.entry = takes.expand_as(self.filled).clone()
        self.filled = torch.maximum(self.filled, self.entry)


def rollout_loss(net: MemoryReader, sequence: Sequence) -> tuple[Tensor, dict[str, float]]:
    """Mean over the frames after the first of every part of the loss, and its parts and the mean IoU as numbers.

    A part that no frame has anything to say about (no object is followed, or none is visible) is left out.
    What is random in it (which frames the network looks at, what it finds) comes from torch's global generator.
    """
    state = Rollout.empty(sequence.masks[0])
    b, _, h4, w4 = sequence.masks[0].shape
    memory = empty_memory(b, 4 * h4, 4 * w4)
    stride = int(torch.randint(2, 5, (1,)))
    totals: dict[str, list[Tensor]] = {}
    for t, (features, truth) in enumerate(zip(sequence.features, sequence.masks, strict=True)):
        now = sequence.stamps_s[:, t]
        carried, memory = net(features, memory, state.write(now))
        if t:
            for name, value in frame_losses(carried, truth, state.active).items():
                totals.setdefault(name, []).append(value)
        is_seen = t == 0 or float(torch.rand(1)) < SEEN_SHARE
        state.fuse(carried, truth, now, t, is_seen, stride)
    means = {name: torch.stack(values).mean() for name, values in totals.items()}
    loss = torch.stack([weight * means[name] for name, weight in WEIGHTS.items() if name in means]).sum()
    return loss, {name: float(v.detach()) for name, v in means.items()}


def frame_losses(carried: Carried, truth: Tensor, active: Tensor) -> dict[str, Tensor]:
    """Parts of one frame's loss, over the slots that hold an object; an object not followed is background.

    Parts that are of visible objects, or of hidden ones, are there only where there are such.
    """
    truth = truth * active[..., None, None]
    target = torch.cat((1 - truth.sum(1, keepdim=True), truth), 1).clamp(0, 1)
    log = carried.logits.float().log_softmax(1)
    ce = -(target * log).sum(1).flatten(1)
    hardest = ce.topk(max(1, int(HARDEST * ce.shape[1])), 1).values.mean()
    said_of = _of_objects(carried, log.exp()[:, 1:], truth, active)
    return {"ce": hardest} | {name: v[where].mean() for name, (v, where) in said_of.items() if bool(where.any())}


def _of_objects(carried: Carried, soft: Tensor, truth: Tensor, active: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Parts of the loss as (b, SLOTS), and for which slots each of them holds."""
    size = truth.sum((2, 3))
    visible = (size > VISIBLE) & (active > 0)
    common, union = torch.minimum(soft, truth).sum((2, 3)), torch.maximum(soft, truth).sum((2, 3))
    iou = common / union.clamp(min=1e-3)
    hard = F.one_hot(carried.logits.argmax(1), SLOTS + 1).permute(0, 3, 1, 2)[:, 1:].float()
    met = torch.minimum(hard, truth).sum((2, 3)) / torch.maximum(hard, truth).sum((2, 3)).clamp(min=1e-3)
    is_clear = (active > 0) & ((size > 2 * VISIBLE) | (size == 0))
    is_there = (size > VISIBLE).float()
    presence = F.binary_cross_entropy_with_logits(carried.presence, is_there, reduction="none")
    presence = presence * (is_there + HIDDEN_WEIGHT * (1 - is_there))
    quality = F.binary_cross_entropy_with_logits(carried.quality, met.detach(), reduction="none")
    return {
        "jaccard": (1 - iou, visible),
        "presence": (presence, is_clear),
        "quality": (quality, visible),
        "iou": (met, visible),
        "hidden": ((carried.presence < 0).float(), (active > 0) & (size == 0)),
    }
