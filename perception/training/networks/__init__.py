"""Segmentation networks. All take (n, 3, h, w) in [-1, 1] and return a Prediction; `divisor` says which h and w."""

from __future__ import annotations

from functools import partial

from perception.errors import ModelError
from perception.training.networks.config import PUBLISHED_WIDTH, NetworkConfig
from perception.training.networks.deeplab import DeepLabV3, DeepLabV3Plus
from perception.training.networks.efficientnet import SCALING, EfficientNetLite
from perception.training.networks.mobilenet import MobileNetV2
from perception.training.networks.panoptic_deeplab import PanopticDeepLab
from perception.training.networks.realtime import RealtimePanoptic
from perception.training.networks.resnet import ResNet
from perception.training.networks.unet import UNet

__all__ = ["Network", "NetworkConfig", "build_network"]

Network = RealtimePanoptic | PanopticDeepLab | DeepLabV3 | DeepLabV3Plus | UNet
INVERTED_RESIDUALS = {
    "mobilenetv2": MobileNetV2,
    **{f"efficientnet-lite{version}": partial(EfficientNetLite, version) for version in range(len(SCALING))},
}
BACKBONES = {**INVERTED_RESIDUALS, "resnet": ResNet}
# What each kind takes where it does not take everything; a single value is the default, which it has no use for.
TAKES: dict[str, dict[str, tuple[object, ...]]] = {
    "realtime": {"backbone": tuple(INVERTED_RESIDUALS), "output_stride": (16,), "padding": ("same",)},
    "panoptic-deeplab": {"output_stride": (16, 32), "padding": ("same",)},
    "deeplabv3+": {"output_stride": (8, 16, 32), "padding": ("same",)},
    "deeplabv3": {"output_stride": (8, 16, 32), "padding": ("same",)},
    "unet": {"backbone": ("mobilenetv2",), "output_stride": (16,), "padding": ("same", "valid")},
}


def build_network(config: NetworkConfig, classes: int) -> Network:
    """The network that `config` describes, with random weights, in training mode.

    Raises ModelError for a combination that no network has.
    """
    check(config, classes)
    width = config.width or PUBLISHED_WIDTH[config.kind]
    if config.kind == "realtime":
        return RealtimePanoptic(INVERTED_RESIDUALS[config.backbone](config.output_stride), classes, width)
    if config.kind == "unet":
        return UNet(classes, width, config.padding)
    network = {"panoptic-deeplab": PanopticDeepLab, "deeplabv3+": DeepLabV3Plus, "deeplabv3": DeepLabV3}[config.kind]
    return network(BACKBONES[config.backbone](config.output_stride), classes, width)


def check(config: NetworkConfig, classes: int) -> None:
    """Raise ModelError for what `build_network` cannot build."""
    if config.kind not in TAKES:
        raise ModelError(f"network kind is {config.kind!r}; it must be one of {', '.join(TAKES)}")
    for name, values in ({"backbone": tuple(BACKBONES)} | TAKES[config.kind]).items():
        value = getattr(config, name)
        if value not in values:
            listed = " or ".join(repr(v) for v in values)
            takes = f"it takes {listed}" if len(values) > 1 else f"it has no choice: leave it at {listed}"
            raise ModelError(f"network {config.kind}: {name} is {value!r}; {takes}")
    if config.width < 0 or config.width % 8:
        raise ModelError(f"network width is {config.width}; it must be a multiple of 8, or 0 for the published width")
    if not 2 <= classes <= 255:
        raise ModelError(f"a network for {classes} classes; it must be 2 to 255: labels are bytes, 255 is ignored")
