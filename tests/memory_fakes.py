"""Small clips for the training of the memory: a few objects that walk over a strip as wide as the node's picture."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from perception.training.checkpoint import AVERAGED, About, save_checkpoint
from perception.training.networks import NetworkConfig, build_network
from perception.training.propagator.features import STRIDES, EncodedClip, write_clip
from perception.training.propagator.rollout import Sequence
from perception.training.propagator.sequences import COLUMNS, stacked, whole

CHANNELS = (96, 128, 32, 24)  # of the road network's features
ROWS = 1  # of cells of 1/16


def walking_ids(frames: int, objects: int = 3, first: int = 0) -> Tensor:
    """(frames, 8 * ROWS, 8 * COLUMNS) ids at 1/2; each object is 12 wide and moves 4 a frame, from frame `first` on."""
    ids = torch.zeros(frames, 8 * ROWS, 8 * COLUMNS, dtype=torch.uint8)
    for t in range(first, frames):
        for k in range(objects):
            left = 20 + 80 * k + 4 * t
            ids[t, 1:7, left : left + 12] = k + 1
    return ids


def clip_of(ids: Tensor, channels: tuple[int, ...] = CHANNELS, seed: int = 0) -> EncodedClip:
    """Features at random, but for one channel in which objects are as bright as their number is high."""
    g = torch.Generator().manual_seed(seed)
    n, h, w = ids.shape
    features = {}
    for (name, stride), c in zip(STRIDES.items(), channels, strict=True):
        noise = torch.rand(n, c, 2 * h // stride, 2 * w // stride, generator=g)
        noise[:, 0] += torch.nn.functional.avg_pool2d(ids.float()[:, None], stride // 2)[:, 0]
        features[name] = noise.half()
    return EncodedClip(features, ids, torch.arange(n) / 10)


def sequence_of(ids: Tensor, b: int = 1) -> Sequence:
    """All frames of one clip, b times."""
    one = whole(clip_of(ids), len(ids))
    return stacked([(one.features, ids, one.stamps_s[0])] * b)


def write_clips(folder: Path, rendered: int, pasted: int = 0, **clip: int) -> None:
    """Clips where a run looks for those that it made already."""
    (folder / "clips").mkdir(parents=True)
    for name, count in (("rendered", rendered), ("pasted", pasted)):
        for i in range(count):
            write_clip(clip_of(walking_ids(8, **clip), seed=i), folder / "clips" / f"{name}-{i:04d}.safetensors")


def write_network(path: Path, config: NetworkConfig | None = None) -> Path:
    """A checkpoint of a panoptic network with random weights."""
    torch.manual_seed(0)
    classes, config = ("road", "car"), config or NetworkConfig(width=128)
    network = build_network(config, len(classes))
    tensors = {AVERAGED + name: tensor for name, tensor in network.state_dict().items()}
    save_checkpoint(path, tensors, About(network=config, classes=classes, things=("car",)))
    return path
