"""The learned propagator: a memory of a few frames, read once for all objects, and a small decoder shared by them.

One step of the graph first writes the frame before into the memory, with the masks that the fusion gave it, then reads
the memory for the frame of now. From the literature: a memory of keys and masks read by L2 similarity (Cheng et al.
2021, STCN, section 4), a fixed bank of recent and conditioning frames with learned temporal codes, pointers and
occlusion scores (Ravi et al. 2024, SAM 2, section 4), one read for all objects (Yang et al. 2021, AOT, section 3).
Where AOT mixes identities by an embedding, the values here are the masks themselves, one set of channels a slot: every
weight is shared by the slots, so that sixteen objects are learnt from as one is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROLES = (0, 1, 2, 2)  # of the entries: the last frame, a recent one, two key frames
ENTRIES = len(ROLES)
SLOTS = 16
KEY = 64
POINTER = 32
SUBCELLS = 4  # a cell of 1/16 remembers its mask as 2 x 2 of 1/8, one of 1/8 is decoded to 2 x 2 of 1/4
_PLANES = SUBCELLS + 5  # what the decoder is told of each slot
NEVER = -1e4  # a similarity, or a logit, that nothing can outweigh; small enough for half precision


class Encoded(NamedTuple):
    """The features of a batch of b frames."""

    keys: Tensor  # (b, 96, h/16, w/16)
    context: Tensor  # (b, 128, h/16, w/16)
    fine8: Tensor  # (b, 32, h/8, w/8)
    fine4: Tensor  # (b, 24, h/4, w/4)


class Memory(NamedTuple):
    """The state: what the step of one frame leaves to the next. n = h/16 * w/16 cells."""

    keys: Tensor  # (b, KEY, ENTRIES, n)
    values: Tensor  # (b, SLOTS * SUBCELLS, ENTRIES, n) masks in [0, 1]
    known: Tensor  # (b, ENTRIES, SLOTS) 1 where the slot's object was known when the entry was written
    last_key: Tensor  # (b, KEY, n) of the frame stepped last, not written yet
    last_look: Tensor  # (b, POINTER, n) its embedding
    pointers: Tensor  # (b, SLOTS, POINTER) how each object looks
    areas: Tensor  # (b, SLOTS) the share of the picture it had when its pointer was last taken


class Write(NamedTuple):
    """What becomes of the frame stepped last."""

    masks: Tensor  # (b, SLOTS, h/4, w/4) its masks in [0, 1] after the fusion
    entry: Tensor  # (b, ENTRIES) 1 where it is written
    kept: Tensor  # (b, SLOTS) 0 where a slot has gone to another object: its past is wiped
    taught: Tensor  # (b, SLOTS) how much of the pointer comes from this frame, in [0, 1]
    active: Tensor  # (b, SLOTS) 1 where a slot holds an object
    age_s: Tensor  # (b, SLOTS) since the network last saw it [s]
    filled: Tensor  # (b, ENTRIES) 1 where an entry holds a frame once this one is written


class Carried(NamedTuple):
    """What the memory says of the frame of now."""

    logits: Tensor  # (b, 1 + SLOTS, h/4, w/4) background first
    probabilities: Tensor  # their softmax
    presence: Tensor  # (b, SLOTS) logit of being visible
    quality: Tensor  # (b, SLOTS) logit of the expected IoU of the mask


class MemoryReader(nn.Module):
    """Carries up to SLOTS masks from frame to frame.

    Args:
        channels: of keys, context, fine8 and fine4.
        width: channels of each slot's decoder.
    """

    def __init__(self, channels: tuple[int, int, int, int] = (96, 128, 32, 24), width: int = 16) -> None:
        super().__init__()
        self.channels = channels
        keys, context, fine8, fine4 = channels
        self.squeeze8 = _conv(fine8, 32, stride=2)
        self.key = nn.Sequential(_conv(keys + context + 32, 128, kernel=1), nn.Conv2d(128, KEY, 1))
        self.look = nn.Conv2d(128, POINTER, 1)
        self.role = nn.Parameter(0.02 * torch.randn(max(ROLES) + 1, KEY))  # the temporal code
        self.role_bias = nn.Parameter(torch.zeros(max(ROLES) + 1))
        self.sharpness = nn.Parameter(torch.tensor(2.0))
        self.place = nn.Conv2d(8, KEY, 1)
        self.narrow = _conv(128, 48, kernel=1)
        self.halve4 = _conv(fine4, 32, stride=2)
        self.shared8 = _conv(48 + fine8 + 32, 48)
        self.guide8 = nn.Conv2d(48, width, 1)
        self.enter8 = nn.Conv2d(_PLANES, width, 3, padding=1)
        self.deepen8 = nn.Conv2d(width, width, 3, padding=2, dilation=2)
        self.leave8 = nn.Conv2d(width, SUBCELLS, 1)
        self.background = nn.Conv2d(48, SUBCELLS, 1)
        self.trust = nn.Parameter(torch.tensor([4.0, 4.0]))
        self.judge = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, seen: Encoded, memory: Memory, write: Write) -> tuple[Carried, Memory]:
        before = _to_cells(write.masks)  # (b, SLOTS, SUBCELLS, h/8, w/8)
        memory = self.remember(before, memory, write)
        key, look, hidden = self.encode(seen)
        read, mass = self.read(key, memory, write.filled)
        logits = self.decode(seen, hidden, look, read, mass, before, memory, write)
        masks = logits.softmax(1)
        presence, quality = self.assess(masks[:, 1:], look, read, before, memory, write)
        carried = Carried(_from_cells(logits), _from_cells(masks), presence, quality)
        return carried, memory._replace(last_key=key.flatten(2), last_look=look.flatten(2))

    def remember(self, before: Tensor, memory: Memory, write: Write) -> Memory:
        """The frame before, written where it belongs, and the pointers with what it taught."""
        values = _to_cells(before.mean(2)).flatten(3)  # (b, SLOTS, SUBCELLS, n)
        kept = write.kept.repeat_interleave(SUBCELLS, 1)[:, :, None, None]
        at = write.entry[:, None, :, None]
        keys = memory.keys * (1 - at) + memory.last_key[:, :, None] * at
        stored = memory.values * kept * (1 - at) + values.flatten(1, 2)[:, :, None] * at
        # a slot's new owner is known in what is written now; `kept` is about what is remembered of the old one
        at = write.entry[..., None]
        known = memory.known * write.kept[:, None] * (1 - at) + write.active[:, None] * at
        pointers, areas = self._taught(values.mean(2), memory, write)
        return memory._replace(keys=keys, values=stored, known=known, pointers=pointers, areas=areas)

    def _taught(self, small: Tensor, memory: Memory, write: Write) -> tuple[Tensor, Tensor]:
        """Pointers and areas after what the masks (b, SLOTS, n) on cells of 1/16 have shown."""
        pooled = _pooled(small, memory.last_look)
        share = write.taught[..., None]
        pointers = memory.pointers * write.kept[..., None] * (1 - share) + pooled * share
        areas = memory.areas * write.kept * (1 - write.taught) + small.mean(2) * write.taught
        return pointers, areas

    def encode(self, seen: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        """Key (b, KEY, h/16, w/16), look (b, POINTER, ..) of unit length, and the features both come from."""
        joined = torch.cat((seen.keys, seen.context, self.squeeze8(seen.fine8)), 1)
        hidden = self.key[0](joined)
        key = self.key[1](hidden) + self.place(_places(seen.keys))
        return key, F.normalize(self.look(hidden), dim=1), hidden

    def read(self, key: Tensor, memory: Memory, filled: Tensor) -> tuple[Tensor, Tensor]:
        """One dense softmax over all remembered cells for all slots (STCN, equation 3).

        Returns:
            what each slot's mask was where this cell looks alike (b, SLOTS * SUBCELLS, n), as a mean over those
            entries in which the slot was known, and the weight that these had (b, SLOTS, n).
        """
        b, cells = key.shape[0], memory.keys.shape[3]
        weights = self._weights(key.flatten(2), memory, filled)
        # a slot that an entry did not know says nothing there: its cells must not count as "not this one"
        known = memory.known.repeat_interleave(SUBCELLS, 2).transpose(1, 2)[..., None]
        values = (memory.values * known).reshape(b, -1, ENTRIES * cells)
        # one row more for each entry, of ones where it is: what is read there is the entry's share of the weight
        ones = torch.eye(ENTRIES).repeat_interleave(cells, 1).expand(b, -1, -1)
        said = (weights @ torch.cat((values, ones), 1).transpose(1, 2)).transpose(1, 2)
        mass = memory.known.transpose(1, 2) @ said[:, -ENTRIES:]  # (b, SLOTS, n)
        return said[:, :-ENTRIES] / (mass.repeat_interleave(SUBCELLS, 1) + 1e-3), mass

    def _weights(self, query: Tensor, memory: Memory, filled: Tensor) -> Tensor:
        """(b, KEY, n) -> (b, n, ENTRIES * n) of each cell over all that is remembered.

        The similarity 2 k q - k^2 - q^2 is one product of matrices, its squares being rows of them, each as whole and
        fraction. In bfloat16 this moves 0.3 % of the weight, where 2 k q - k^2, subtracted after the product, moves
        3 %: what comes out is near 0 where cells look alike. (STCN leaves q^2 out, which a softmax can't tell.)
        """
        scale = self.sharpness.exp() / KEY**0.5
        keys = memory.keys + self.role[list(ROLES)].T[None, :, :, None]
        bias = self.role_bias[list(ROLES)][None] + (filled - 1) * -NEVER  # (b, ENTRIES)
        own = -scale * query.square().sum(1, keepdim=True)
        theirs = (bias[..., None] - scale * keys.square().sum(1)).flatten(1)[:, None]
        left = torch.cat((2 * scale * query, *_whole_and_rest(own), *(torch.ones_like(own),) * 2), 1)
        right = torch.cat((keys.flatten(2), *(torch.ones_like(theirs),) * 2, *_whole_and_rest(theirs)), 1)
        return (left.transpose(1, 2) @ right).softmax(2)

    def decode(
        self,
        seen: Encoded,
        hidden: Tensor,
        look: Tensor,
        read: Tensor,
        mass: Tensor,
        before: Tensor,
        memory: Memory,
        write: Write,
    ) -> Tensor:
        """Logits of background and slots (b, 1 + SLOTS, SUBCELLS, h/8, w/8); each slot goes through the same weights.

        All convolutions run at 1/8, each of their cells giving the 2 x 2 logits of 1/4 (Shi et al. 2016).
        """
        shared = torch.cat((_enlarged(self.narrow(hidden), 2), seen.fine8, self.halve4(seen.fine4)), 1)
        shared = self.shared8(shared)
        b, _, h, w = look.shape
        read = F.pixel_shuffle(read.reshape(b, -1, h, w), 2)  # (b, SLOTS, h/8, w/8)
        x = F.relu(_added(self.enter8(self._planes(look, read, mass, before, memory)), self.guide8(shared)))
        x = F.relu(x + self.deepen8(x))
        # the masks read and the masks before, as logits: where training starts, as plain label propagation
        prior = self.trust[0] * read[:, :, None] + self.trust[1] * before - self.trust.mean()
        logits = self.leave8(x).reshape(before.shape) + prior
        logits = logits + ((write.active - 1) * -NEVER)[..., None, None, None]
        return torch.cat((self.background(shared)[:, None], logits), 1)

    def _planes(self, look: Tensor, read: Tensor, mass: Tensor, before: Tensor, memory: Memory) -> Tensor:
        """What is told of each slot at 1/8: (b * SLOTS, _PLANES, h/8, w/8).

        The 2 x 2 of its mask before, and that of all others; where the memory reads it, and others; likeness to its
        pointer; how much of the memory knew it.
        """
        b, _, h, w = look.shape
        alike = _enlarged((F.normalize(memory.pointers, dim=2) @ look.flatten(2)).reshape(b, SLOTS, h, w), 2)
        weight = F.interpolate(mass.reshape(b, SLOTS, h, w), scale_factor=2.0, mode="nearest")
        others = (_rival(before.mean(2)), read, _rival(read), alike, weight)
        return torch.cat((before, torch.stack(others, 2)), 2).reshape(b * SLOTS, _PLANES, 2 * h, 2 * w)

    def assess(
        self, masks: Tensor, look: Tensor, read: Tensor, before: Tensor, memory: Memory, write: Write
    ) -> tuple[Tensor, Tensor]:
        """Is each object visible, and how good is its mask: a small network of a few statistics."""
        small = F.avg_pool2d(masks.mean(2), 2).flatten(2)  # (b, SLOTS, n)
        area = small.mean(2)
        size = masks.flatten(2).sum(2)
        sure = (masks.square().flatten(2).sum(2)) / (size + 1e-3)  # mean probability within the mask
        peak = masks.flatten(2).amax(2)
        common = torch.minimum(masks, before).flatten(2).sum(2)
        stable = common / (size + before.flatten(2).sum(2) - common + 1e-3)
        alike = (_pooled(small, look.flatten(2)) * F.normalize(memory.pointers, dim=2)).sum(2)
        ratio = torch.log((area + 1e-5) / (memory.areas + 1e-5)).clamp(-4, 4)
        found = read.reshape(read.shape[0], SLOTS, SUBCELLS, -1).amax((2, 3))
        told = torch.stack(
            (sure, peak, stable, alike, ratio, found, torch.log(area + 1e-5) / 5 + 1, write.age_s.clamp(max=4)), 2
        )
        presence, quality = self.judge(told).unbind(2)
        return presence, quality


def empty_memory(b: int, height: int, width: int) -> Memory:
    """The state before the first frame, for masks of height x width [px]."""
    n = (height // 16) * (width // 16)
    return Memory(
        keys=torch.zeros(b, KEY, ENTRIES, n),
        values=torch.zeros(b, SLOTS * SUBCELLS, ENTRIES, n),
        known=torch.zeros(b, ENTRIES, SLOTS),
        last_key=torch.zeros(b, KEY, n),
        last_look=torch.zeros(b, POINTER, n),
        pointers=torch.zeros(b, SLOTS, POINTER),
        areas=torch.zeros(b, SLOTS),
    )


def _conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """No batch norm: a clip's frames are too few and too alike for its statistics."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2), nn.ReLU(inplace=True))


def _enlarged(x: Tensor, times: int) -> Tensor:
    return F.interpolate(x, scale_factor=float(times), mode="bilinear", align_corners=False)


def _added(slots: Tensor, shared: Tensor) -> Tensor:
    """(b * SLOTS, c, h, w) plus (b, c, h, w) of the image that the slots are of."""
    if shared.shape[0] == 1:
        return slots + shared
    return slots + shared.repeat_interleave(SLOTS, 0)


def _to_cells(x: Tensor) -> Tensor:
    """(b, s, 2h, 2w) -> (b, s, SUBCELLS, h, w), row by row."""
    return F.pixel_unshuffle(x, 2).unflatten(1, (-1, SUBCELLS))


def _from_cells(x: Tensor) -> Tensor:
    """The inverse of `_to_cells`: pixel_shuffle, written out, for OpenVINO takes twice as long for its operator."""
    b, s, _, h, w = x.shape
    return x.reshape(b, s, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, s, 2 * h, 2 * w)


def _whole_and_rest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers whose sum is x and which bfloat16 holds well, where x itself has too many digits."""
    return x.floor(), x - x.floor()


def _rival(masks: Tensor) -> Tensor:
    """For each slot the sum of all others: (b, SLOTS, h, w)."""
    return masks.sum(1, keepdim=True) - masks


def _pooled(small: Tensor, look: Tensor) -> Tensor:
    """Mask-weighted mean of an embedding, of unit length: (b, SLOTS, n), (b, d, n) -> (b, SLOTS, d)."""
    mean = small @ look.transpose(1, 2) / (small.sum(2, keepdim=True) + 1e-4)
    return F.normalize(mean, dim=2, eps=1e-4)


def _places(like: Tensor) -> Tensor:
    """(1, 8, h, w) sines of the row and the column, at two wavelengths each."""
    h, w = int(like.shape[2]), int(like.shape[3])
    y = (torch.arange(h, dtype=torch.float32) + 0.5) / h
    x = (torch.arange(w, dtype=torch.float32) + 0.5) / w
    rows = [f(k * torch.pi * y)[:, None].expand(h, w) for k in (1, 2) for f in (torch.sin, torch.cos)]
    columns = [f(k * torch.pi * x)[None].expand(h, w) for k in (1, 2) for f in (torch.sin, torch.cos)]
    return torch.stack((*rows, *columns))[None].to(like.device)
