"""The node's own panoptic network: one encoder, one light ASPP, a semantic and an instance decoder, both up to 1/2.

Panoptic-DeepLab (Cheng et al. 2020) runs two ASPPs and two decoders of 5x5 depthwise convolutions. Here both tasks
share everything up to 1/8, the instance decoder is two dense 3x3 convolutions, and what is saved pays for a semantic
refinement at 1/2, where poles and lane markings are still wider than a cell. Each cell of 1/4 tells the four centres
and offsets of its quarters (Shi et al. 2016, sub-pixel convolution): two people side by side are two cells of 1/4 wide,
which is too few to tell their centres apart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.training.networks.deeplab import LightASPP, conv_bn_relu, resize_like, separable
from perception.training.networks.input_size import require_multiple
from perception.training.networks.mobilenet import InvertedResiduals
from perception.training.networks.prediction import EncoderFeatures, Prediction

QUARTERS = 4  # of a cell of 1/4, in row order
OFFSET_UNIT = 32.0  # [px] the offset head speaks in these, so that its weights need not grow to be heard


class RealtimePanoptic(nn.Module):
    """Inverted residuals at output stride 16, semantic logits, centres and offsets at 1/2, features.

    The keys are the backbone's features before its last stage: what follows is trained to make two cars look alike,
    and label propagation on DAVIS finds things again better by these than by the ASPP's output, which is the context.

    Args:
        backbone: at output stride 16.
        classes: number of classes.
        width: channels of the ASPP and the decoder at 1/8.
    """

    divisor = 16

    def __init__(self, backbone: InvertedResiduals, classes: int, width: int = 128) -> None:
        super().__init__()
        self.backbone = backbone
        c4, c8, _, top = backbone.channels
        self.aspp = LightASPP(top, width, (4, 8, 12))
        self.skip8 = conv_bn_relu(c8, 48)
        self.skip4 = conv_bn_relu(c4, 32)
        self.skip2 = conv_bn_relu(backbone.fine, 16)
        self.fuse8 = separable(width + 48, width)
        self.fuse4 = nn.Sequential(separable(width + 32, 96), separable(96, 96))
        self.head = nn.Conv2d(96, classes, 1)
        self.auxiliary = nn.Conv2d(width, classes, 1)
        self.narrow = conv_bn_relu(96, 32)
        self.fuse2 = conv_bn_relu(32 + 16, 32, kernel=3)
        self.refine = nn.Conv2d(32, classes, 1)
        self.instance8 = conv_bn_relu(width, 64)
        self.instance4 = nn.Sequential(conv_bn_relu(64 + 32, 48, kernel=3), conv_bn_relu(48, 32, kernel=3))
        self.centre = nn.Conv2d(32, 1 * QUARTERS, 3, padding=1)
        self.offset = nn.Conv2d(32, 2 * QUARTERS, 3, padding=1)
        for start in (self.refine, self.centre):
            # The refinement starts as no change to the logits at 1/4; most of the centres' target is 0 and weighs 200.
            nn.init.zeros_(start.weight)
            nn.init.zeros_(start.bias)  # type: ignore[arg-type]  # both have one

    def forward(self, x: Tensor) -> Prediction:
        """(n, 3, h, w) in [-1, 1], h and w divisible by 16."""
        f2, features = self._encode(x)
        y8 = self.skip8(features.fine8)
        y8 = self.fuse8(torch.cat((resize_like(features.context, y8), y8), 1))
        skip4 = self.skip4(features.fine4)
        y4 = self.fuse4(torch.cat((resize_like(y8, skip4), skip4), 1))
        instance = self.instance4(torch.cat((resize_like(self.instance8(y8), skip4), skip4), 1))
        auxiliary = self.auxiliary(y8) if self.training else None
        centre, offset = F.pixel_shuffle(self.centre(instance), 2), F.pixel_shuffle(self.offset(instance), 2)
        return Prediction(self._semantic(y4, f2), centre, OFFSET_UNIT * offset, features, auxiliary)

    def encode(self, x: Tensor) -> EncoderFeatures:
        """The features of `forward`, without the decoders."""
        return self._encode(x)[1]

    def _encode(self, x: Tensor) -> tuple[Tensor, EncoderFeatures]:
        """The backbone's features at 1/2, which only a decoder reads, and those that are given out."""
        require_multiple(x, self.divisor)
        f2, f4, f8, f16, top = self.backbone.pyramid(x)
        return f2, EncoderFeatures(f16, self.aspp(top), f8, f4)

    def _semantic(self, y4: Tensor, f2: Tensor) -> Tensor:
        """Logits at 1/4, enlarged, plus what the features at 1/2 say about borders and thin things."""
        y2 = torch.cat((resize_like(self.narrow(y4), f2), self.skip2(f2)), 1)
        return resize_like(self.head(y4), f2) + self.refine(self.fuse2(y2))
