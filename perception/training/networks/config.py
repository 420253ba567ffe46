"""What a configuration may say about a network; checkpoints carry the same words."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Kind = Literal["realtime", "panoptic-deeplab", "deeplabv3+", "deeplabv3", "unet"]
Backbone = Literal[
    "mobilenetv2", "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "efficientnet-lite3",
    "efficientnet-lite4", "resnet",
]  # fmt: skip
OutputStride = Literal[8, 16, 32]
Padding = Literal["same", "valid"]
PUBLISHED_WIDTH: dict[Kind, int] = {
    "realtime": 128,  # channels of the ASPP and of the decoder at 1/8
    "panoptic-deeplab": 256,  # of both ASPPs and the semantic decoder; half of it in the instance decoder
    "deeplabv3+": 256,  # of the ASPP and the decoder
    "deeplabv3": 256,  # of the ASPP
    "unet": 64,  # of the first level; each level below has twice as many
}
INSTANCE_STRIDE: dict[Kind, int] = {"realtime": 2, "panoptic-deeplab": 4}  # of centres and offsets, of kinds with them


class NetworkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which network, and how large; `build_network` refuses what a kind cannot be built with."""

    kind: Kind = "realtime"
    backbone: Backbone = "mobilenetv2"  # "realtime" takes no "resnet", "unet" leaves no choice
    output_stride: OutputStride = 16  # of the encoder; "panoptic-deeplab" takes 16 or 32, "realtime" and "unet" 16
    width: Annotated[int, msgspec.Meta(ge=0, le=1024, multiple_of=8)] = 0  # channels; 0: PUBLISHED_WIDTH of the kind
    padding: Padding = "same"  # of U-Net's convolutions; "valid" is the paper's
