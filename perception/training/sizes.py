"""Whether a network takes the sizes of a configuration, found out before hours of work."""

from __future__ import annotations

import torch
from torch import nn

from perception.errors import ConfigError, ModelError
from perception.training.config import TrainingConfig
from perception.training.datasets import Dataset
from perception.training.validation import predict


def require_sizes(network: nn.Module, config: TrainingConfig) -> None:
    """Raise ConfigError naming the key whose size the network does not take."""
    divisor = int(getattr(network, "divisor", 16))
    sizes = {"crop": config.crop, "validation.size": config.validation and config.validation.size}
    for key, size in sizes.items():
        if size and (size[0] % divisor or size[1] % divisor):
            raise ConfigError(f"{key}: {list(size)}: this network takes multiples of {divisor}")
        if size:
            _require_taken(network, key, size)


@torch.no_grad()
def _require_taken(network: nn.Module, key: str, size: tuple[int, int]) -> None:
    """One pass of zeros: a network may have rules of its own, as U-Net with "valid" padding has."""
    was_training = network.training
    network.eval()  # nothing of it is to be learnt, by the batch norms least of all
    try:
        network(torch.zeros(1, 3, *size, device=next(network.parameters()).device))
    except ModelError as error:
        raise ConfigError(f"{key}: {list(size)}: {error}") from None
    finally:
        network.train(was_training)


def require_picture(network: nn.Module, dataset: Dataset, size: tuple[int, int] | None) -> None:
    """Raise ConfigError where the network, in evaluation mode, does not take the first picture of a validation."""
    try:
        predict(network, dataset.read(0).image, size)
    except ModelError as error:
        raise ConfigError(f"{dataset.files[0].image}: {error}; or set validation.size") from None
