"""MobileNetV2 (Sandler et al. 2018, table 2) as a dense-prediction backbone, with batch norm for fine-tuning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from perception.errors import ModelError
from perception.training.networks.depthwise import DepthwiseConv2d

# (expansion t, channels c, repeats n, stride s), Sandler et al. 2018, table 2
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


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
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; a shortcut where the shape allows one."""

    def __init__(self, c_in: int, c_out: int, expansion: int, stride: int, dilation: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [*conv_bn(c_in, hidden), nn.ReLU6(inplace=True)]
        layers += [*conv_bn(hidden, hidden, 3, stride, dilation, groups=hidden), nn.ReLU6(inplace=True)]
        layers += [*conv_bn(hidden, c_out)]
        self.layers = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """Features at strides 4, 8, 16 and at the output stride.

    Args:
        output_stride: 32, 16 or 8; the strides left out become dilations (Chen et al. 2017, section 3.1).
    """

    def __init__(self, output_stride: int = 16) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ModelError(f"output_stride is {output_stride}; it must be 8, 16 or 32")
        self.output_stride = output_stride
        self.stem = nn.Sequential(*conv_bn(3, 32, 3, stride=2), nn.ReLU6(inplace=True))
        stages, c_in, stride, dilation = [], 32, 2, 1
        for t, c, n, s in STAGES:
            blocks = []
            for i in range(n):
                wants = s if i == 0 else 1
                if wants == 2 and stride == output_stride:
                    wants, dilation = 1, dilation * 2
                stride *= wants
                blocks.append(InvertedResidual(c_in, c, t, wants, dilation))
                c_in = c
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.channels = (24, 32, 96, 320)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(n, 3, h, w) scaled to [-1, 1] -> features at 1/4 (24), 1/8 (32), 1/16 (96) and the output stride (320).

        At output stride 8 the third lie at 1/8 too.
        """
        return self.pyramid(x)[1:]

    def pyramid(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As `forward`, with the 16 channels at 1/2 first."""
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


def load_imagenet(backbone: MobileNetV2, path: Path) -> None:
    """Start from folded ImageNet weights: arrays `00.weight`, `00.bias`, ... in network order.

    The batch norms start as the identity plus the folded bias; `calibrate_batch_norm` then gives them real
    statistics without changing the function computed.
    """
    with np.load(path, allow_pickle=False) as arrays, torch.no_grad():
        for i, (conv, norm) in enumerate(backbone.convolutions()):
            weight = torch.from_numpy(arrays[f"{i:02d}.weight"].astype(np.float32))
            if weight.shape != conv.weight.shape:
                raise ModelError(
                    f"{path}: layer {i:02d} has shape {tuple(weight.shape)}, not {tuple(conv.weight.shape)}"
                )
            conv.weight.copy_(weight)
            norm.bias.copy_(torch.from_numpy(arrays[f"{i:02d}.bias"].astype(np.float32)))


@torch.no_grad()
def calibrate_batch_norm(backbone: MobileNetV2, images: Tensor) -> None:
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
