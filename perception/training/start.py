"""What a network starts from and learns from: ImageNet weights, what fits of an earlier run, a teacher."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from perception.errors import ConfigError, ModelError
from perception.training.checkpoint import AVERAGED, load_checkpoint, load_network, part
from perception.training.config import TrainingConfig
from perception.training.networks.mobilenet import MobileNetV2, calibrate_batch_norm, load_imagenet

log = logging.getLogger(__name__)


def start_from(network: nn.Module, path: Path, config: TrainingConfig, images: Tensor) -> None:
    """Set what `path` has for this network: `.npz` ImageNet weights of a MobileNetV2, or one of our checkpoints.

    Args:
        images: (n, 3, h, w) a batch as in training; batch norm statistics of ImageNet weights come from it.

    Raises:
        ConfigError: the file is of another kind, or the network has no MobileNetV2.
        ModelError: the file is broken, or nothing in it fits.
    """
    if path.suffix == ".safetensors":
        _start_from_checkpoint(network, path, config)
    elif path.suffix == ".npz":
        backbone = getattr(network, "backbone", None)
        if not isinstance(backbone, MobileNetV2):
            raise ConfigError(f"{path}: ImageNet weights of a MobileNetV2, which this network does not have")
        try:
            load_imagenet(backbone, path)
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(f"{path}: not MobileNetV2's ImageNet weights: {str(error).splitlines()[0]}") from None
        calibrate_batch_norm(backbone, images)
    else:
        raise ConfigError(f"{path}: start weights are a .npz file or a .safetensors checkpoint")


def _start_from_checkpoint(network: nn.Module, path: Path, config: TrainingConfig) -> None:
    """Take the averaged tensors of equal name and shape; those that count classes only where the classes agree."""
    tensors, about = load_checkpoint(path)
    same_classes = about.classes == config.classes
    own = network.state_dict()
    fitting = {
        name: tensor
        for name, tensor in part(tensors, AVERAGED).items()
        if name in own and own[name].shape == tensor.shape and (same_classes or len(config.classes) not in tensor.shape)
    }
    if not any(name.endswith("weight") for name in fitting):
        raise ModelError(f"{path}: no tensor in it fits this network; it holds a {about.network.kind!r} network")
    network.load_state_dict(own | fitting)
    log.info("%s: %d of the network's %d tensors start from it", path, len(fitting), len(own))


def open_teacher(path: Path, classes: tuple[str, ...]) -> nn.Module:
    """The averaged network of a checkpoint, frozen; raises ModelError where it knows other classes."""
    teacher, about = load_network(path)
    if about.classes != classes:
        raise ModelError(f"{path}: the teacher knows other classes: {', '.join(about.classes)}")
    return teacher.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
