"""Checkpoints: tensors and what is known about them in one safetensors file, replaced in one step, never unpickled."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from perception.errors import ModelError, PerceptionError, reason
from perception.models.card import WEIGHTS
from perception.training.networks import build_network
from perception.training.networks.config import NetworkConfig
from perception.whole_file import in_place_of, sync

FORMAT = "perception-training-1"
NETWORK, AVERAGED = "network.", "averaged."  # beginnings of tensor names


class SaveError(PerceptionError):
    """A checkpoint can't be written; the one before it is still whole."""

    exit_code = 1


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says about itself beside its tensors; unknown fields of later versions are passed over."""

    network: NetworkConfig
    classes: tuple[str, ...]
    things: tuple[str, ...] = ()
    step: int = 0
    miou: float | None = None  # of the averaged weights on the validation pictures; None where not validated yet
    config: dict[str, Any] = {}  # the run's whole configuration, as plain tables
    state: dict[str, Any] = {}  # what the trainer needs besides tensors to go on


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], about: About) -> None:
    """Write `path` whole or not at all: a temporary file beside it, flushed to the disk, then renamed over it.

    Raises:
        SaveError: the disk is full or the folder can't be written; what was at `path` is untouched.
    """
    write_whole(path, tensors, {"format": FORMAT, "about": msgspec.json.encode(about).decode()})


def write_whole(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file in one step; raises SaveError as `save_checkpoint`."""
    content = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata)
    try:
        with in_place_of(path) as partial, partial.open("wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        _flush_folder(path.parent)
    except OSError as error:
        raise SaveError(f"{path}: {len(content) / 1e6:.1f} MB can't be written: {reason(error)}") from None


def _flush_folder(folder: Path) -> None:
    """Make the rename itself last through a power cut, where the file system can do that."""
    with contextlib.suppress(OSError):
        sync(folder)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], About]:
    """All tensors, on the CPU, and what the file says about them.

    Raises:
        ModelError: no such file, cut short, not safetensors (a pickle among others), or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ModelError(f"{path}: a safetensors file, but not a checkpoint of `perception train`")
            about = msgspec.json.decode(metadata.get("about", ""), type=About)
            return {name: f.get_tensor(name).clone() for name in f.keys()}, about  # noqa: SIM118  # not a mapping
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; give a checkpoint of `perception train`") from None
    except (OSError, SafetensorError, msgspec.MsgspecError) as error:
        why = str(error).splitlines()[0]
        raise ModelError(f"{path}: not a whole checkpoint of `perception train` ({why})") from None


def shipped_or(path: Path, base: Path | None = None) -> Path:
    """The file `path`, from `base` or the working directory on; without one the shipped checkpoint of that name."""
    file = (base or Path()).absolute() / path
    shipped = WEIGHTS / f"{path.name}.safetensors"
    return shipped if path.parent == Path() and not file.exists() and shipped.exists() else file


def part(tensors: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    """The tensors whose names start with `beginning`, under the rest of their names."""
    return {name.removeprefix(beginning): t for name, t in tensors.items() if name.startswith(beginning)}


def load_network(path: Path) -> tuple[nn.Module, About]:
    """The network with its averaged weights, in evaluation mode, float32 on the CPU.

    Raises:
        ModelError: as `load_checkpoint`, or the tensors are not those of the network that the file names.
    """
    tensors, about = load_checkpoint(path)
    network = build_network(about.network, len(about.classes))
    restore(network, part(tensors, AVERAGED), path)
    return network.eval(), about


def restore(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Set all weights; raises ModelError where one is missing, left over, of another shape or not finite."""
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()[:200]
        raise ModelError(f"{path}: its tensors are not those of its network: {why}") from None
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path}: tensor {name!r} holds a value that is not a number; take an older checkpoint")
