"""U-Net as published (Ronneberger, Fischer and Brox 2015, figure 1): no batch norm, transposed convolutions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.errors import ModelError
from perception.training.networks.config import Padding
from perception.training.networks.input_size import input_size, require_multiple
from perception.training.networks.prediction import Prediction

LEVELS = 4  # poolings
DIVISOR = 2**LEVELS
MARGIN = 92  # [px] that the valid pass loses on every side: (572 - 388) / 2
REMAINDER = 12  # the valid pass takes sides of 16 k + 12 pixels, 572 among them: every pooling then meets an even side


def convolutions(c_in: int, c_out: int, padding: int) -> nn.Sequential:
    """Two 3x3 convolutions, each followed by a ReLU."""
    first, second = nn.Conv2d(c_in, c_out, 3, padding=padding), nn.Conv2d(c_out, c_out, 3, padding=padding)
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Semantic logits at the input's own size.

    With "same" padding the sides must be multiples of 16. With "valid", the paper's, each convolution takes its
    border off; `forward` first mirrors the image beyond its edges (the overlap-tile strategy, section 2), so that
    any image of at least 108 pixels a side is covered whole, and `crop_pass` is the network of figure 1 itself.

    Args:
        width: channels of the first level; each of the four levels below has twice as many: 64 to 1024.
    """

    def __init__(self, classes: int, width: int = 64, padding: Padding = "same") -> None:
        super().__init__()
        self.padding: Padding = padding
        self.divisor = DIVISOR if padding == "same" else 1
        pad = 1 if padding == "same" else 0
        channels = [width * 2**level for level in range(LEVELS + 1)]
        self.contracting = nn.ModuleList(convolutions(c_in, c, pad) for c_in, c in pairwise([3, *channels]))
        rising = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, c, 2, stride=2) for below, c in rising)
        self.expanding = nn.ModuleList(convolutions(below, c, pad) for below, c in rising)
        self.dropout = nn.Dropout(0.5)  # at the end of the contracting path: section 3.1, and the authors' release
        self.head = nn.Conv2d(width, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # section 3: Gaussian of variance 2 / (weights into a neuron)
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Prediction:
        """(n, 3, h, w) in [-1, 1] -> `semantic` at full size. Raises ModelError for a size that it can't take."""
        if self.padding == "same":
            require_multiple(x, self.divisor)
            return Prediction(self._levels(x))
        h, w = input_size(x)
        logits = self._levels(mirror(x))
        return Prediction(logits[:, :, :h, :w])

    def crop_pass(self, x: Tensor) -> Tensor:
        """With "valid" padding: (n, 3, h, w) -> logits (n, classes, h - 184, w - 184) of the centre, 572 -> 388.

        Raises ModelError unless h and w are 16 k + 12 and at least 188.
        """
        h, w = input_size(x)
        if self.padding != "valid":
            raise ModelError('padding is "same"; only "valid" takes the border off: call the network itself')
        if any(side < 2 * MARGIN or side % DIVISOR != REMAINDER for side in (h, w)):
            raise ModelError(f"the image is {w}x{h}; sides must be 16 k + 12 and at least 188, for example 572x572")
        return self._levels(x)

    def _levels(self, x: Tensor) -> Tensor:
        skips = []
        for level, convolve in enumerate(self.contracting):
            x = convolve(x)
            if level >= LEVELS - 1:
                x = self.dropout(x)
            if level < LEVELS:
                skips.append(x)
                x = F.max_pool2d(x, 2)
        for up, convolve, skip in zip(self.up, self.expanding, reversed(skips), strict=True):
            x = up(x)
            x = convolve(torch.cat((centre_crop(skip, x), x), 1))
        return self.head(x)


def centre_crop(x: Tensor, like: Tensor) -> Tensor:
    """The middle of `x`, as large as `like`."""
    (h, w), (rows, columns) = input_size(x), input_size(like)
    top, left = (h - rows) // 2, (w - columns) // 2
    return x[:, :, top : top + rows, left : left + columns]


def mirror(x: Tensor) -> Tensor:
    """`x` reflected at its edges so that the valid pass covers it, its first pixel under the first logit.

    Raises ModelError where a side is shorter than what has to be mirrored.
    """
    h, w = input_size(x)
    bottom, right = (MARGIN + (REMAINDER - 2 * MARGIN - side) % DIVISOR for side in (h, w))
    if bottom >= h or right >= w:
        least = MARGIN + DIVISOR
        raise ModelError(f"the image is {w}x{h}; U-Net with valid padding mirrors its border: give {least} px a side")
    return F.pad(x, (MARGIN, right, MARGIN, bottom), mode="reflect")
