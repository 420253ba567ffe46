"""Inverted residuals as a dense-prediction backbone, with batch norm for fine-tuning; MobileNetV2 is one of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from perception.errors import ModelError
from perception.training.networks.depthwise import DepthwiseConv2d


class Stage(NamedTuple):
    """A row of the table that such a network is published as."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int = 3  # of the depthwise convolutions


# Sandler et al. 2018, table 2
MOBILENET_V2 = tuple(starmap(Stage, (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)))  # fmt: skip


def conv_bn(
    c_in: int, c_out: int, kernel: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, then batch norm; padded so that stride 1 keeps the size."""
    if groups == c_in == c_out:
        return nn.Sequential(DepthwiseConv2d(c_in, kernel, stride, dilation), nn.BatchNorm2d(c_out))
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; a shortcut where the shape allows one."""

    def __init__(self, c_in: int, c_out: int, expansion: int, stride: int, dilation: int, kernel: int = 3) -> None:
        super().__init__()
        hidden = c_in * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [*conv_bn(c_in, hidden), nn.ReLU6(inplace=True)]
        layers += [*conv_bn(hidden, hidden, kernel, stride, dilation, groups=hidden), nn.ReLU6(inplace=True)]
        layers += [*conv_bn(hidden, c_out)]
        self.layers = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.has_shortcut else y


class InvertedResiduals(nn.Module):
    """A strided stem and seven stages of inverted residuals: features at strides 2, 4, 8, 16 and at the output stride.

    Args:
        table: the stages; the second, third and fourth halve the size, and the sixth.
        output_stride: 32, 16 or 8; the strides left out become dilations (Chen et al. 2017, section 3.1).
    """

    def __init__(self, table: Sequence[Stage], output_stride: int) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ModelError(f"output_stride is {output_stride}; it must be 8, 16 or 32")
        self.output_stride = output_stride
        self.stem = nn.Sequential(*conv_bn(3, 32, 3, stride=2), nn.ReLU6(inplace=True))
        stages, c_in, stride, dilation = [], 32, 2, 1
        for t, c, n, s, kernel in table:
            blocks = []
            for i in range(n):
                wants = s if i == 0 else 1
                if wants == 2 and stride == output_stride:
                    wants, dilation = 1, dilation * 2
                stride *= wants
                blocks.append(InvertedResidual(c_in, c, t, wants, dilation, kernel))
                c_in = c
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.fine = table[0].channels  # at 1/2
        self.channels = (table[1].channels, table[2].channels, table[4].channels, table[-1].channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(n, 3, h, w) scaled to [-1, 1] -> features at 1/4, 1/8, 1/16 and the output stride, of `channels` channels.

        At output stride 8 the third lie at 1/8 too.
        """
        return self.pyramid(x)[1:]

    def pyramid(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As `forward`, with the `fine` channels at 1/2 first."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[0], features[1], features[2], features[4], features[-1]

    def convolutions(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Every convolution with its batch norm, in network order."""
        modules = list(self.modules())
        convs = [m for m in modules if isinstance(m, nn.Conv2d)]
        norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
        return list(zip(convs, norms, strict=True))


class MobileNetV2(InvertedResiduals):
    """MobileNetV2 (Sandler et al. 2018, table 2); `output_stride` is 32, 16 or 8."""

    def __init__(self, output_stride: int = 16) -> None:
        super().__init__(MOBILENET_V2, output_stride)


def load_imagenet(backbone: InvertedResiduals, path: Path) -> None:
    """Start from folded ImageNet weights: arrays `00.weight`, `00.bias`, ... in network order.

    Raises:
        ModelError: a layer has another shape. KeyError, ValueError, OSError, zipfile.BadZipFile: the file is broken.
    """
    with np.load(path, allow_pickle=False) as arrays:
        folded = [
            (torch.from_numpy(arrays[f"{i:02d}.weight"]), torch.from_numpy(arrays[f"{i:02d}.bias"]))
            for i in range(len(backbone.convolutions()))
        ]
        set_folded(backbone, folded, path)


@torch.no_grad()
def set_folded(backbone: InvertedResiduals, folded: Sequence[tuple[Tensor, Tensor]], path: Path) -> None:
    """Set each convolution's (weight, bias), in network order, and its batch norm to the identity plus the bias.

    `calibrate_batch_norm` then gives the norms real statistics without changing the function computed.

    Raises:
        ModelError: a layer has another shape, or some are missing; `path` is where they are from.
    """
    layers = backbone.convolutions()
    for i, ((conv, norm), (weight, bias)) in enumerate(zip(layers, folded, strict=False)):
        if weight.shape != conv.weight.shape:
            raise ModelError(
                f"{path}: weights of another backbone: layer {i:02d} has shape {tuple(weight.shape)}, "
                f"not {tuple(conv.weight.shape)}"
            )
        conv.weight.copy_(weight)
        norm.bias.copy_(bias)
    if len(folded) < len(layers):
        raise ModelError(f"{path}: weights of another backbone: {len(folded)} layers, this one has {len(layers)}")


@torch.no_grad()
def calibrate_batch_norm(backbone: InvertedResiduals, images: Tensor) -> None:
    """Set each batch norm's statistics from `images` and its affine part so that the function stays what it was.

    With identity statistics the first training step would normalise by the batch and change every activation;
    here gamma = sigma and beta = b + mu undo the normalisation exactly for the statistics of `images`.
    """
    backbone.train()
    hooks = []
    for _, norm in backbone.convolutions():

        def absorb(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            assert isinstance(module, nn.BatchNorm2d)
            x = args[0].float()
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(mean)
            module.running_var.copy_(var)
            module.weight.copy_((var + module.eps).sqrt())
            module.bias.add_(mean)

        hooks.append(norm.register_forward_pre_hook(absorb))
    backbone(images)
    for hook in hooks:
        hook.remove()
