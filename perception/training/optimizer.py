"""The optimiser, its state as plain tensors, and the guard that keeps garbage gradients out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import torch
from torch import Tensor, nn

from perception.errors import ConfigError
from perception.training.config import OptimizerConfig

REMEMBERED = 50  # norms
SPIKE = 6.0  # times the median of the remembered norms


def freeze(network: nn.Module, config: OptimizerConfig) -> list[nn.Module]:
    """Keep what the configuration wants kept as it is; the modules to hold in eval mode.

    Raises:
        ConfigError: the network has no such part, or no backbone with so many stages.
    """
    frozen = [*_all_but(network, config.only), *_first_stages(network, config.frozen_stages)]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def _all_but(network: nn.Module, only: Sequence[str]) -> list[nn.Module]:
    parts = dict(network.named_children())
    strange = next((name for name in only if name not in parts), None)
    if strange is not None:
        raise ConfigError(f"optimizer.only: {strange!r} is not a part of this network: {', '.join(parts)}")
    return [part for name, part in parts.items() if only and name not in only]


def _first_stages(network: nn.Module, stages: int) -> list[nn.Module]:
    """The stem and the first `stages` stages of the backbone."""
    if not stages:
        return []
    children = dict(getattr(network, "backbone", nn.Module()).named_children())
    parts = list(children.get("stages", nn.ModuleList()).children())
    if len(parts) < stages:
        raise ConfigError(
            f"optimizer.frozen_stages is {stages}; this network's backbone has {len(parts)} stages to freeze"
        )
    return [module for name, module in children.items() if name.startswith("stem")] + parts[:stages]


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over what is not frozen; the backbone's group learns `backbone_factor` times as fast."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    backbone = [p for name, p in named if name.startswith("backbone.")]
    rest = [p for name, p in named if not name.startswith("backbone.")]
    groups = [{"params": backbone, "factor": config.backbone_factor}, {"params": rest, "factor": 1.0}]
    groups = [group for group in groups if group["params"]]
    if config.kind == "sgd":
        return torch.optim.SGD(groups, config.learning_rate, config.momentum, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as `0.exp_avg`, `0.step`, ...: parameter's number, then its own name."""
    return {
        f"{number}.{key}": value
        for number, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Set what `optimizer_tensors` gave, each tensor laid out in memory as its parameter is.

    The layout matters: sums over it run in its order, and a resumed run must add in the same order.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        parameter = parameters[int(number)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


class SpikeGuard:
    """Says whether a gradient's norm is believable: finite, and not far above what it was lately.

    One garbage gradient undoes hundreds of steps. The known source of them, about once in 50 steps of bfloat16 on a
    CPU, is `DepthwiseConv2d`'s to avoid: 1150 steps with it had none.

    Args:
        floor: norms below it are always believed; 0: every finite one is.
    """

    def __init__(self, floor: float) -> None:
        self.floor = floor
        self.norms: list[float] = []
        self.refused = 0
        self.refused_in_a_row = 0

    def accepts(self, norm: float) -> bool:
        """Judge the gradient of a step, and remember its norm."""
        good = math.isfinite(norm)
        if good:
            self.norms = [*self.norms, norm][-REMEMBERED:]
            good = not self.floor or norm <= max(self.floor, SPIKE * median(self.norms))
        self.refused += not good
        self.refused_in_a_row = 0 if good else self.refused_in_a_row + 1
        return good
