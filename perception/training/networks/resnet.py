"""A dense residual backbone (He et al. 2016, basic blocks) laid out for real time: ReLU, batch norm, 3x3 throughout.

Depthwise convolutions and squeeze-and-excitation save operations, not time, on a CPU in int8; this backbone has none.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from perception.errors import ModelError
from perception.training.networks.mobilenet import conv_bn

STEM = (24, 32)  # channels of the two strided 3x3 convolutions that lead to 1/2 and 1/4
STAGES = ((32, 1, 1), (64, 3, 2), (128, 4, 2), (256, 2, 2))  # (channels, blocks, stride of the first block)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected by 1x1 where the shape changes (He et al. 2016, figure 5).

    Args:
        dilations: of the first and the second convolution.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        first = conv_bn(c_in, c_out, 3, stride, dilations[0])
        self.layers = nn.Sequential(*first, nn.ReLU(inplace=True), *conv_bn(c_out, c_out, 3, 1, dilations[1]))
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else conv_bn(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Features at strides 4, 8, 16 and at the output stride.

    Args:
        output_stride: 32, 16 or 8. A stride left out becomes a dilation of every later convolution, so that the
            features at 1/32 are among those of the denser network, to the bit (Chen et al. 2017, section 3.1).
    """

    def __init__(self, output_stride: int = 16) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ModelError(f"output_stride is {output_stride}; it must be 8, 16 or 32")
        self.output_stride = output_stride
        self.stem2 = nn.Sequential(*conv_bn(3, STEM[0], 3, stride=2), nn.ReLU(inplace=True))
        self.stem4 = nn.Sequential(*conv_bn(STEM[0], STEM[1], 3, stride=2), nn.ReLU(inplace=True))
        stages, c_in, stride, dilation = [], STEM[1], 4, 1
        for c, n, s in STAGES:
            blocks = []
            for i in range(n):
                wants, before = s if i == 0 else 1, dilation
                if wants == 2 and stride == output_stride:
                    wants, dilation = 1, dilation * 2
                stride *= wants
                blocks.append(BasicBlock(c_in, c, wants, (before, dilation)))
                c_in = c
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.channels = (32, 64, 128, 256)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(n, 3, h, w) -> features at 1/4 (32), 1/8 (64), 1/16 (128) and the output stride (256).

        At output stride 8 the third lie at 1/8 too.
        """
        return self.pyramid(x)[1:]

    def pyramid(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As `forward`, with the 24 channels at 1/2 first."""
        f2 = self.stem2(x)
        f4 = self.stages[0](self.stem4(f2))
        f8 = self.stages[1](f4)
        f16 = self.stages[2](f8)
        return f2, f4, f8, f16, self.stages[3](f16)
