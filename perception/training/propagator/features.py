"""Clips as the propagator sees them: the frozen network's features, made once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from perception.errors import ModelError
from perception.training.checkpoint import write_whole
from perception.training.networks.memory import Encoded
from perception.training.networks.prediction import EncoderFeatures
from perception.training.propagator.clip import Clip

STRIDES = {"keys": 16, "context": 16, "fine8": 8, "fine4": 4}
IDS_STRIDE = 2


@dataclass(frozen=True)
class EncodedClip:
    """A clip of n frames; features as float16, to be held in memory by the hundred."""

    features: dict[str, Tensor]  # name -> (n, c, h / stride, w / stride)
    ids: Tensor  # (n, h/2, w/2) uint8
    stamps_s: Tensor  # (n,)

    @property
    def frames(self) -> int:
        return int(self.ids.shape[0])

    @property
    def objects(self) -> int:
        return int(self.ids.max())

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Of keys, context, fine8 and fine4."""
        keys, context, fine8, fine4 = (int(self.features[name].shape[1]) for name in STRIDES)
        return keys, context, fine8, fine4


@torch.inference_mode()
def encode_clip(network: nn.Module, clip: Clip) -> EncodedClip:
    """All frames through the encoder of a trained network, in bfloat16 as an engine on this kind of CPU has it."""
    frames: list[EncoderFeatures] = []
    with torch.autocast("cpu", torch.bfloat16):
        for image in clip.images:
            x = torch.from_numpy(image).permute(2, 0, 1)[None].float() * (1 / 127.5) - 1.0
            frames.append(network.encode(x))  # type: ignore[operator]  # a panoptic network has it
    stacked = {name: torch.cat([getattr(f, name) for f in frames]).half() for name in STRIDES}
    return EncodedClip(stacked, torch.from_numpy(clip.ids), torch.from_numpy(clip.stamps_s))


def write_clip(clip: EncodedClip, path: Path, network: str = "") -> None:
    """Whole or not at all, with the hash of the network that saw it; raises SaveError where it can't be written."""
    write_whole(path, clip.features | {"ids": clip.ids, "stamps_s": clip.stamps_s}, {"network": network})


def read_clip(path: Path, network: str = "") -> EncodedClip:
    """Mapped into memory, so that the system can drop what it needs room for.

    Raises:
        ModelError: a broken file, or one that says that another network than `network`, a hash, saw the clip.
    """
    try:
        with safe_open(path, framework="pt") as f:
            seen_by = (f.metadata() or {}).get("network", "")
        tensors = load_file(path)
        if network and seen_by and seen_by != network:
            raise ModelError(f"{path}: another network saw this clip; delete the folder's clips: they are made anew")
        return EncodedClip({name: tensors[name] for name in STRIDES}, tensors["ids"], tensors["stamps_s"])
    except (OSError, SafetensorError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path}: not a whole clip ({reason}); delete it: it is made anew") from None


def window(clip: EncodedClip, frames: Sequence[int], columns: tuple[int, int]) -> tuple[list[Encoded], Tensor]:
    """Chosen frames and columns [cells of 1/16] of a clip: features one frame each (1, ...), and ids (n, h/2, w/2)."""
    left, right = columns
    index = torch.tensor(list(frames))
    cut = {
        name: clip.features[name][index][..., left * 16 // s : right * 16 // s].float() for name, s in STRIDES.items()
    }
    ids = clip.ids[index][..., left * 16 // IDS_STRIDE : right * 16 // IDS_STRIDE].clone()
    return [Encoded(*(cut[name][t : t + 1] for name in STRIDES)) for t in range(len(index))], ids
