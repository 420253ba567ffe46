"""A module `tensorrt` that compiles nothing: a plan is the graph's bytes. As 8.6 or as 11 has its features."""

from __future__ import annotations

from enum import IntEnum
from types import SimpleNamespace
from typing import Any


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = Severity

    def __init__(self) -> None: ...


class IProgressMonitor:
    def __init__(self) -> None: ...


class Old(IntEnum):
    EXPLICIT_BATCH = 0


class New(IntEnum):
    STRONGLY_TYPED = 0


class OldFlags(IntEnum):
    TF32 = 0
    FP16 = 1
    INT8 = 2
    OBEY_PRECISION_CONSTRAINTS = 3


class NewFlags(IntEnum):
    TF32 = 0


class FakeTensorRt:
    """What `perception.engines.tensorrt` uses of the module.

    Attributes:
        fails: what the builder or the runtime says, line by line, instead of building or loading.
        log: what happened, in order.
    """

    ILogger = ILogger
    MemoryPoolType = SimpleNamespace(WORKSPACE=0)
    TacticSource = SimpleNamespace(EDGE_MASK_CONVOLUTIONS=3, JIT_CONVOLUTIONS=4)
    LayerType = SimpleNamespace(CONSTANT="constant", SHAPE="shape", CAST="cast")

    def __init__(self, version: str) -> None:
        self.__version__, self.fails = version, ""
        self.log: list[Any] = []
        is_old = version.startswith("8.")
        self.NetworkDefinitionCreationFlag = Old if is_old else New
        self.BuilderFlag = OldFlags if is_old else NewFlags
        self.DataType = SimpleNamespace(FLOAT="float", HALF="half", **({} if is_old else {"BF16": "b", "FP8": "f"}))
        if not is_old:
            self.IProgressMonitor = IProgressMonitor

    def Builder(self, log: Any) -> FakeBuilder:
        return FakeBuilder(self, log)

    def Runtime(self, log: Any) -> FakeRuntime:
        return FakeRuntime(self, log)

    def OnnxParser(self, network: Any, log: Any) -> FakeParser:
        return FakeParser(network)

    def has_failed(self, log: Any) -> bool:
        for line in self.fails.splitlines():
            log.log(Severity.ERROR, line)
        return bool(self.fails)


class FakeRuntime:
    def __init__(self, trt: FakeTensorRt, log: Any) -> None:
        self.trt, self.log = trt, log

    def deserialize_cuda_engine(self, plan: bytes) -> None:
        """Gives none, as TensorRT does of a plan that it can't load."""
        self.trt.has_failed(self.log)


class FakeParser:
    num_errors = 1

    def __init__(self, network: Any) -> None:
        self.network = network

    def parse(self, model: bytes) -> bool:
        self.network.data = model
        return model.startswith(b"graph")

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: "Unsupported\n  operator Sing", node=lambda: 7)


class FakeBuilder:
    def __init__(self, trt: FakeTensorRt, log: Any) -> None:
        self.trt, self.log = trt, log
        self.layers = [
            Layer("cast", ["float"], ["half"]),
            Layer("convolution", ["half"], ["half"]),
            Layer("reduce", ["float"], ["float"]),
            Layer("topk", ["float"], ["float", "int32"]),
            Layer("greater", ["float", "float"], ["bool"]),
            Layer("select", ["bool", "half", "half"], ["half"]),
            Layer("resize", ["half", None], ["half"]),
            Layer("fill", [], ["float"]),
            Layer("gather", ["int32", "int32"], ["int32"]),
        ]

    def create_network(self, flags: int) -> Any:
        self.trt.log.append(("flags", flags))
        return SimpleNamespace(num_layers=len(self.layers), get_layer=lambda i: self.layers[i], data=b"")

    def create_builder_config(self) -> FakeConfig:
        return FakeConfig(self.trt)

    def build_serialized_network(self, network: Any, config: FakeConfig) -> Any:
        self.trt.log.append(("types", {layer.type: (layer.precision, layer.set) for layer in self.layers}))
        if self.trt.has_failed(self.log):
            return None
        if config.progress_monitor:
            config.progress_monitor.phase_start("Building", None, 2)
            assert config.progress_monitor.step_complete("Building", 0)
            config.progress_monitor.phase_finish("Building")
        return memoryview(network.data)


class Layer:
    """Of inputs, None where an optional one is not given, and outputs of these types."""

    def __init__(self, kind: str, inputs: list[str | None], outputs: list[str]) -> None:
        self.type, self.inputs, self.outputs = kind, inputs, outputs
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)
        self.precision = ""
        self.set: dict[int, str] = {}  # types of outputs

    def get_input(self, index: int) -> Any:
        dtype = self.inputs[index]
        return None if dtype is None else SimpleNamespace(dtype=dtype)

    def get_output(self, index: int) -> Any:
        return SimpleNamespace(dtype=self.outputs[index])

    def set_output_type(self, index: int, dtype: str) -> None:
        self.set[index] = dtype


class FakeConfig:
    progress_monitor: Any = None

    def __init__(self, trt: FakeTensorRt) -> None:
        self.trt = trt

    def set_flag(self, flag: Any) -> None:
        self.trt.log.append(("set", flag.name))

    def clear_flag(self, flag: Any) -> None:
        self.trt.log.append(("clear", flag.name))

    def set_memory_pool_limit(self, pool: int, size: int) -> None:
        self.trt.log.append(("room", size))

    def set_tactic_sources(self, sources: int) -> None: ...

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(data=data, serialize=lambda: memoryview(data + b"+"))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.trt.log.append(("timings", cache.data))
        return not cache.data.startswith(b"foreign")
