"""Whether a network takes the sizes of a configuration, found out before hours of work."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from perception.errors import ConfigError, ModelError
from perception.training.config import TrainingConfig
from perception.training.validation import seen_size

Size = tuple[int, int]  # height, width [px]


def require_sizes(network: nn.Module, config: TrainingConfig, frozen: Sequence[nn.Module] = ()) -> None:
    """Raise ConfigError naming the key whose size the network does not take.

    Args:
        frozen: parts of it that stay in evaluation mode.
    """
    divisor = int(getattr(network, "divisor", 16))
    keys: dict[Size, str] = {config.crop: "crop"}  # by size: each is tried once
    if config.validation and config.validation.size:
        keys.setdefault(config.validation.size, "validation.size")
    for size, key in keys.items():
        if size[0] % divisor or size[1] % divisor:
            raise ConfigError(f"{key}: {list(size)}: this network takes multiples of {divisor}")
        try:
            _try(network, size)
        except ModelError as error:
            raise ConfigError(f"{key}: {list(size)}: {error}") from None
    if sum(data.samples for data in config.data.values()) == 1:
        _require_statistics(network, frozen, config.crop)


def require_shapes(network: nn.Module, pictures: Mapping[Size, Path]) -> None:
    """Raise ConfigError naming a validation picture that the network does not take at its own size.

    Args:
        pictures: one of each size.
    """
    tried: set[Size] = set()
    for shape, path in pictures.items():
        size = seen_size(network, shape)
        if size in tried:
            continue
        tried.add(size)
        try:
            _try(network, size)
        except ModelError as error:
            raise ConfigError(f"{path}: {error}; or set validation.size") from None


@torch.no_grad()
def _try(network: nn.Module, size: Size) -> None:
    """One pass of zeros: a network may have rules of its own, as U-Net with "valid" padding has. Raises ModelError."""
    was_training = network.training
    network.eval()  # nothing of it is to be learnt, by the batch norms least of all
    try:
        network(_zeros(network, size))
    finally:
        network.train(was_training)


@torch.no_grad()
def _require_statistics(network: nn.Module, frozen: Sequence[nn.Module], size: Size) -> None:
    """Raise ConfigError where a batch of one sample leaves a batch norm a single cell, which has no variance."""
    tried, still = copy.deepcopy((network, list(frozen)))  # together, so that the parts are those of the copy
    tried.train()
    for module in still:
        module.eval()
    device = next(network.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # dropout draws of the run's own
        try:
            tried(_zeros(network, size))
        except ValueError as error:
            raise ConfigError(
                f"crop: {list(size)}: too small for batches of one sample ({error}); enlarge it, or data.NAME.samples"
            ) from None


def _zeros(network: nn.Module, size: Size) -> Tensor:
    return torch.zeros(1, 3, *size, device=next(network.parameters()).device)
