"""DeepLabV3+ (Chen et al. 2018) on MobileNetV2, made light enough for two CPU cores."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.training.networks.mobilenet import MobileNetV2, conv_bn


def conv_bn_relu(c_in: int, c_out: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn(c_in, c_out, kernel, 1, dilation), nn.ReLU(inplace=True))


def separable(c_in: int, c_out: int, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3x3 then 1x1, each normalised and rectified (Chen et al. 2018, figure 3)."""
    depthwise = conv_bn(c_in, c_in, 3, 1, dilation, groups=c_in)
    return nn.Sequential(*depthwise, nn.ReLU(inplace=True), *conv_bn_relu(c_in, c_out))


def resize_like(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class LightASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, separable 3x3 at three rates, and the image's mean."""

    def __init__(self, c_in: int, c_out: int, rates: tuple[int, int, int]) -> None:
        super().__init__()
        self.point = conv_bn_relu(c_in, c_out)
        self.atrous = nn.ModuleList(separable(c_in, c_out, rate) for rate in rates)
        self.image = nn.Sequential(nn.Conv2d(c_in, c_out, 1), nn.ReLU(inplace=True))
        self.fuse = conv_bn_relu(c_out * (1 + len(rates)), c_out)
        self.mix = nn.Conv2d(c_out, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.point(x), *(branch(x) for branch in self.atrous)]
        pooled = self.image(x.mean((2, 3), keepdim=True))
        # Adding the projected mean equals concatenating it and convolving, without a full-size constant map.
        return F.relu(self.fuse(torch.cat(branches, 1)) + self.mix(pooled))


class DeepLabV3Plus(nn.Module):
    """Encoder at output stride 16, light ASPP, a decoder with skips at 1/8 and 1/4; logits at 1/4.

    Args:
        classes: number of classes.
        width: channels of ASPP and decoder.
    """

    def __init__(self, classes: int, width: int = 128, output_stride: int = 16, last_stage: int = 6) -> None:
        super().__init__()
        self.backbone = MobileNetV2(output_stride, last_stage)
        c4, c8, _, top = self.backbone.channels
        rates = (3, 6, 9) if output_stride == 32 else (4, 8, 12)
        self.aspp = LightASPP(top, width, rates)
        self.skip8 = conv_bn_relu(c8, 48)
        self.skip4 = conv_bn_relu(c4, 32)
        self.fuse8 = separable(width + 48, width)
        self.fuse4 = nn.Sequential(separable(width + 32, 96), separable(96, 96))
        self.head = nn.Conv2d(96, classes, 1)
        self.auxiliary = nn.Conv2d(width, classes, 1)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        f4, f8, _, top = self.backbone(x)
        y8 = self.skip8(f8)
        y8 = self.fuse8(torch.cat((resize_like(self.aspp(top), y8), y8), 1))
        y4 = self.skip4(f4)
        return self.fuse4(torch.cat((resize_like(y8, y4), y4), 1)), y8

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) in [-1, 1] -> logits (n, classes, h/4, w/4)."""
        return self.head(self.features(x)[0])

    def forward_with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Also logits at 1/8, for deep supervision during training."""
        y4, y8 = self.features(x)
        return self.head(y4), self.auxiliary(y8)
