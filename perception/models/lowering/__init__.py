"""A model as one graph for an accelerator: a camera's bytes go in, masks come out; nothing is left for the host.

`lowered` gives all that a model needs in one precision. `lower` reads in the order of a frame: camera, network,
grouping; `precision` and `quantised` then choose the types.
"""

from __future__ import annotations

import importlib.util

from perception.errors import ModelError

if importlib.util.find_spec("onnx") is None:
    raise ModelError("onnx, which writes graphs for accelerators, is missing; pip install 'perception-node[tensorrt]'")

from perception.models.lowering.frame import lower, lower_encoder, lower_propagator
from perception.models.lowering.parts import lowered
from perception.models.lowering.precision import in_precision

__all__ = ["in_precision", "lower", "lower_encoder", "lower_propagator", "lowered"]
