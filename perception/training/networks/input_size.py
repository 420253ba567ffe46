"""The one check that every network makes of its input."""

from __future__ import annotations

import warnings

from torch import Tensor
from torch.jit import TracerWarning, is_tracing  # pyright: ignore[reportPrivateImportUsage]

from perception.errors import ModelError


def input_size(x: Tensor) -> tuple[int, int]:
    """Height and width of (n, c, h, w) as plain integers, while a graph is traced too: graphs have static shapes."""
    if not is_tracing():
        return x.shape[-2], x.shape[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        return int(x.shape[-2]), int(x.shape[-1])


def require_multiple(x: Tensor, divisor: int) -> None:
    """Raise ModelError where a side is no multiple of `divisor`: the outputs would not lie over the input evenly."""
    h, w = input_size(x)
    if h % divisor or w % divisor:
        raise ModelError(
            f"the image is {w}x{h}; this network takes multiples of {divisor}: scale or pad it, "
            f"for example to {max(1, round(w / divisor)) * divisor}x{max(1, round(h / divisor)) * divisor}"
        )
