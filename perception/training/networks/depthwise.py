"""Depthwise convolution whose gradient can be trusted, and comes soon, where the others run in bfloat16 on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """A filter for each channel: `nn.Conv2d` with `groups = in_channels`, the same weights and the same results.

    Under bfloat16 autocast on a CPU a dilated or strided one runs in float32. The weight gradient that PyTorch 2.13's
    oneDNN gives of a dilated depthwise convolution of channels-last bfloat16 tensors is garbage, mostly finite, on
    processors with bfloat16 units (cosine with the true one 0, seen at dilations 2, 4 and 8); float32 is right, and
    forwards and backwards take a third of the time where it is dilated, half where it is strided.
    """

    def __init__(self, channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
        self._is_unsafe = dilation > 1 or stride > 1

    def forward(self, input: Tensor) -> Tensor:
        """(n, channels, h, w), in its dtype."""
        if not self._is_unsafe or not self.training or input.is_cuda or not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float()).to(input.dtype)
