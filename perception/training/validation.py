"""A network's class maps of whole pictures, and their score."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from perception.evaluation.segmentation import Confusion
from perception.opencv import cv2
from perception.training.datasets import Dataset


@torch.no_grad()
def predict(network: nn.Module, image: NDArray[np.uint8], size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Class indices (h, w) of a picture (h, w, 3) RGB; logits are enlarged bilinearly before the argmax.

    Args:
        network: in evaluation mode.
        size: (h, w) that the network sees; None: the picture's own, rounded to what the network takes.
    """
    height, width = size or seen_size(network, image.shape)
    shape = image.shape[:2]
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    device = next(network.parameters()).device
    x = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float().div(127.5).sub(1)
    logits = network(x.contiguous(memory_format=torch.channels_last)).semantic.float()
    full = F.interpolate(logits, shape, mode="bilinear", align_corners=False)
    return full.argmax(1)[0].to(torch.uint8).cpu().numpy()


def seen_size(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width that the network sees of a picture (h, w, ...): rounded to what it takes."""
    divisor = int(getattr(network, "divisor", 32))
    height, width = (max(1, round(side / divisor)) * divisor for side in shape[:2])
    return height, width


def validate(
    network: nn.Module,
    dataset: Dataset,
    size: tuple[int, int] | None,
    classes: int,
    autocast: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Confusion:
    """One confusion matrix over the whole data set, each picture at the size of its labels.

    Raises:
        ConfigError: a file is wrong.
    """
    was_training = network.training
    network.eval()
    confusion = Confusion(classes)
    for i in range(len(dataset)):
        sample = dataset.read(i)
        with autocast():
            predicted = predict(network, sample.image, size)
        confusion.add(sample.labels, predicted)
        progress(i + 1, len(dataset))
    network.train(was_training)
    return confusion
