"""Panoptic-DeepLab (Cheng et al. 2020): one encoder, and an ASPP and a decoder for each of its two tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from perception.errors import ModelError
from perception.training.networks.deeplab import ASPP, RATES, conv_bn_relu, resize_like, separable
from perception.training.networks.input_size import require_multiple
from perception.training.networks.mobilenet import InvertedResiduals
from perception.training.networks.prediction import EncoderFeatures, Prediction
from perception.training.networks.resnet import ResNet

SEMANTIC_SKIPS = (128, 64, 32)  # channels that the features at 1/16, 1/8, 1/4 are projected to
INSTANCE_SKIPS = (64, 32, 16)
KEY_STRIDE = 16  # of keys and context


def separable5(c_in: int, c_out: int) -> nn.Sequential:
    """The 5x5 separable convolution of decoders and heads (Cheng et al. 2020, figure 2)."""
    return separable(c_in, c_out, kernel=5)


class Decoder(nn.Module):
    """For each skip: enlarge what its ASPP made to the skip's size, concatenate the skip's projection, fuse.

    Args:
        c_in: channels of the top features.
        skips: channels of the skips' features, coarsest first.
        projections: channels that they are projected to.
        aspp: channels of the ASPP.
        width: channels of the result.
        output_stride: of the top features.
    """

    def __init__(
        self, c_in: int, skips: Sequence[int], projections: Sequence[int], aspp: int, width: int, output_stride: int
    ) -> None:
        super().__init__()
        self.aspp = ASPP(c_in, aspp, RATES[output_stride])
        self.project = nn.ModuleList(conv_bn_relu(c, p) for c, p in zip(skips, projections, strict=True))
        above = [aspp] + [width] * (len(projections) - 1)
        self.fuse = nn.ModuleList(separable5(a + p, width) for a, p in zip(above, projections, strict=True))

    def forward(self, context: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """`context` is what `aspp` makes of the top features."""
        x = context
        for skip, project, fuse in zip(skips, self.project, self.fuse, strict=True):
            projected = project(skip)
            x = fuse(torch.cat((resize_like(x, projected), projected), 1))
        return x


class PanopticDeepLab(nn.Module):
    """Semantic logits, centre heat and offsets at 1/4, features.

    The keys are the encoder's own features at 1/16 (96 channels of MobileNetV2, 128 of ResNet), which both tasks
    share and no head has specialised: the place where XMem (Cheng and Schwing 2022) takes its keys from. The context
    is the semantic decoder's ASPP's output, enlarged where it lies at 1/32.

    The skips are those of the published configurations: at 1/8 and 1/4 for ResNet at output stride 16, else also
    at 1/16.

    Args:
        backbone: at output stride 16 or 32.
        width: channels of the two ASPPs, the semantic decoder and its head; the instance decoder has half of it
            and its heads an eighth.
    """

    def __init__(self, backbone: InvertedResiduals | ResNet, classes: int, width: int = 256) -> None:
        super().__init__()
        stride = backbone.output_stride
        if stride not in (16, 32):
            raise ModelError(f"output_stride is {stride}; panoptic-deeplab takes 16 or 32")
        self.divisor = stride
        self.backbone = backbone
        c4, c8, c16, top = backbone.channels
        self.skips = 2 if isinstance(backbone, ResNet) and stride == 16 else 3
        skips = (c16, c8, c4)[-self.skips :]
        self.semantic = Decoder(top, skips, SEMANTIC_SKIPS[-self.skips :], width, width, stride)
        self.instance = Decoder(top, skips, INSTANCE_SKIPS[-self.skips :], width, width // 2, stride)
        self.semantic_head = nn.Sequential(separable5(width, width), nn.Conv2d(width, classes, 1))
        self.centre_head = nn.Sequential(separable5(width // 2, width // 8), nn.Conv2d(width // 8, 1, 1))
        self.offset_head = nn.Sequential(separable5(width // 2, width // 8), nn.Conv2d(width // 8, 2, 1))

    def forward(self, x: Tensor) -> Prediction:
        """(n, 3, h, w) in [-1, 1] -> everything but `auxiliary`; h and w multiples of `divisor`."""
        top, context, features = self._encode(x)
        skips = (features.keys, features.fine8, features.fine4)[-self.skips :]
        instance = self.instance(self.instance.aspp(top), skips)
        return Prediction(
            self.semantic_head(self.semantic(context, skips)),
            self.centre_head(instance),
            self.offset_head(instance),
            features,
        )

    def encode(self, x: Tensor) -> EncoderFeatures:
        """The features of `forward`, without the decoders."""
        return self._encode(x)[-1]

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor, EncoderFeatures]:
        """The backbone's last features, what the semantic ASPP makes of them, and the features that are given out."""
        require_multiple(x, self.divisor)
        f4, f8, f16, top = self.backbone(x)
        context = self.semantic.aspp(top)
        at16 = resize_like(context, f16) if self.divisor > KEY_STRIDE else context
        return top, context, EncoderFeatures(f16, at16, f8, f4)
