"""What a network starts from: ImageNet weights, or what fits of an earlier run."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from perception.errors import ConfigError, ModelError
from perception.training.checkpoint import AVERAGED, load_checkpoint, part
from perception.training.config import TrainingConfig
from perception.training.networks import build_network
from perception.training.networks.efficientnet import load_published
from perception.training.networks.mobilenet import InvertedResiduals, calibrate_batch_norm, load_imagenet

log = logging.getLogger(__name__)

IMAGENET = {".npz": load_imagenet, ".pth": load_published}  # by the ending of the file
MOST_CLASSES = 255  # of any network
UNREADABLE = (
    OSError, EOFError, LookupError, ValueError, AttributeError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError
)  # fmt: skip


def start_from(network: nn.Module, path: Path, config: TrainingConfig, images: Tensor) -> None:
    """Set what `path` has for this network: ImageNet weights of its backbone, or one of our checkpoints.

    Args:
        images: (n, 3, h, w) a batch as in training; batch norm statistics of ImageNet weights come from it.

    Raises:
        ConfigError: the file is of another kind, or the network has no backbone that such are for.
        ModelError: the file is broken, or nothing in it fits.
    """
    if path.suffix == ".safetensors":
        _start_from_checkpoint(network, path, config)
    elif path.suffix in IMAGENET:
        _start_from_imagenet(network, path, images)
    else:
        raise ConfigError(f"{path}: start weights are ImageNet's (.npz, .pth) or a .safetensors checkpoint")


def _start_from_imagenet(network: nn.Module, path: Path, images: Tensor) -> None:
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, InvertedResiduals):
        raise ConfigError(
            f"{path}: ImageNet weights are for MobileNetV2 and EfficientNet-Lite, which this network has not"
        )
    try:
        IMAGENET[path.suffix](backbone, path)
    except UNREADABLE as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: not ImageNet weights of this network's backbone: {said}") from None
    calibrate_batch_norm(backbone, images)


def _start_from_checkpoint(network: nn.Module, path: Path, config: TrainingConfig) -> None:
    """Take the averaged tensors of equal name and shape; those that count classes only where the classes agree."""
    tensors, about = load_checkpoint(path)
    own = network.state_dict()
    left_out = set() if about.classes == config.classes else _counting_classes(own, config)
    fitting = {
        name: tensor
        for name, tensor in part(tensors, AVERAGED).items()
        if name in own and own[name].shape == tensor.shape and name not in left_out
    }
    if not any(name.endswith("weight") for name in fitting):
        raise ModelError(f"{path}: no tensor in it fits this network; it holds a {about.network.kind!r} network")
    network.load_state_dict(own | fitting)
    log.info("%s: %d of the network's %d tensors start from it", path, len(fitting), len(own))


def _counting_classes(own: Mapping[str, Tensor], config: TrainingConfig) -> set[str]:
    """Names of the network's `own` tensors whose shape is another with another number of classes."""
    count = len(config.classes)
    with torch.random.fork_rng(devices=[]):  # the run's own random numbers stay what they were
        others = build_network(config.network, count + 1 if count < MOST_CLASSES else count - 1).state_dict()
    return {name for name, tensor in own.items() if tensor.shape != others[name].shape}
