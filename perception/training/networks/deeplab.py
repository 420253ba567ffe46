"""DeepLabV3 (Chen et al. 2017), DeepLabV3+ (Chen et al. 2018), and the layers that other networks borrow from them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.training.networks.input_size import input_size, require_multiple
from perception.training.networks.mobilenet import InvertedResiduals, conv_bn
from perception.training.networks.prediction import Prediction
from perception.training.networks.resnet import ResNet

# Chen et al. 2017, section 3.3: (6, 12, 18) at output stride 16, doubled at 8; Cheng et al. 2020 halve them at 32
RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
LOW_LEVEL = 48  # channels that the skip at 1/4 is projected to (Chen et al. 2018, table 1)


def conv_bn_relu(c_in: int, c_out: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn(c_in, c_out, kernel, 1, dilation), nn.ReLU(inplace=True))


def separable(c_in: int, c_out: int, dilation: int = 1, kernel: int = 3) -> nn.Sequential:
    """Depthwise convolution then 1x1, each normalised and rectified (Chen et al. 2018, figure 3)."""
    depthwise = conv_bn(c_in, c_in, kernel, 1, dilation, groups=c_in)
    return nn.Sequential(*depthwise, nn.ReLU(inplace=True), *conv_bn_relu(c_in, c_out))


def resize_like(x: Tensor, like: Tensor) -> Tensor:
    """`x` enlarged bilinearly to `like`, a whole number of times as large."""
    (h, w), (rows, columns) = input_size(x), input_size(like)
    # A scale becomes a constant of the graph; of a size the exporter makes operations on shapes.
    return F.interpolate(x, scale_factor=(rows / h, columns / w), mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, 3x3 at three rates and the image's mean, concatenated and projected.

    Args:
        c_in: channels of the features.
        width: channels of each of the five branches and of the output.
        rates: dilations of the 3x3 convolutions.
        depthwise: make them atrous separable convolutions (Chen et al. 2018) instead of dense ones (2017).
    """

    def __init__(self, c_in: int, width: int, rates: tuple[int, int, int], depthwise: bool = False) -> None:
        super().__init__()
        self.point = conv_bn_relu(c_in, width)
        self.atrous = nn.ModuleList(
            separable(c_in, width, rate) if depthwise else conv_bn_relu(c_in, width, 3, rate) for rate in rates
        )
        # No batch norm here, unlike the paper: of a batch of n images it would see only n values a channel.
        self.image = nn.Sequential(nn.Conv2d(c_in, width, 1), nn.ReLU(inplace=True))
        self.project = conv_bn_relu(5 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) -> (n, width, h, w)."""
        pooled = self.image(x.mean((2, 3), keepdim=True))
        branches = [self.point(x), *(branch(x) for branch in self.atrous)]
        return self.project(torch.cat((*branches, pooled.expand(-1, -1, *input_size(x))), 1))


class LightASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, separable 3x3 at three rates, and the image's mean added at the end."""

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
        # Adding the projected mean spares concatenating a map that is constant over the whole image.
        return F.relu(self.fuse(torch.cat(branches, 1)) + self.mix(pooled))


class DeepLabV3(nn.Module):
    """Dilated backbone, ASPP, 1x1 classifier: semantic logits at the backbone's output stride (Chen et al. 2017).

    The paper's multi-grid is left out: it spreads rates over three residual units, more than the last stages have.

    Args:
        width: channels of the ASPP.
    """

    def __init__(self, backbone: InvertedResiduals | ResNet, classes: int, width: int = 256) -> None:
        super().__init__()
        self.divisor = backbone.output_stride
        self.backbone = backbone
        self.aspp = ASPP(backbone.channels[-1], width, RATES[backbone.output_stride])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Prediction:
        """(n, 3, h, w) in [-1, 1] -> `semantic` at 1/s, s the output stride; h and w multiples of `divisor`."""
        require_multiple(x, self.divisor)
        return Prediction(self.head(self.aspp(self.backbone(x)[-1])))


class DeepLabV3Plus(nn.Module):
    """DeepLabV3's encoder and a decoder that adds the features at 1/4: semantic logits at 1/4 (Chen et al. 2018).

    The ASPP's and the decoder's 3x3 convolutions are separable, as in the paper's section 3.2 and its best results.

    Args:
        width: channels of the ASPP and of the decoder.
    """

    def __init__(self, backbone: InvertedResiduals | ResNet, classes: int, width: int = 256) -> None:
        super().__init__()
        self.divisor = backbone.output_stride
        self.backbone = backbone
        low, *_, top = backbone.channels
        self.aspp = ASPP(top, width, RATES[backbone.output_stride], depthwise=True)
        self.skip4 = conv_bn_relu(low, LOW_LEVEL)
        self.decoder = nn.Sequential(separable(width + LOW_LEVEL, width), separable(width, width))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Prediction:
        """(n, 3, h, w) in [-1, 1] -> `semantic` at 1/4; h and w multiples of `divisor`."""
        require_multiple(x, self.divisor)
        f4, _, _, top = self.backbone(x)
        skip4 = self.skip4(f4)
        return Prediction(self.head(self.decoder(torch.cat((resize_like(self.aspp(top), skip4), skip4), 1))))
