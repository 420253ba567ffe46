"""A GPU and TensorRT that are neither: host memory, and plans that ONNX Runtime runs where their addresses say.

They hold `TensorRtEngine` to its order of work: copies, addresses, capture and replay, states that change places.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

TYPES = {"tensor(float)": "FLOAT", "tensor(uint8)": "UINT8", "tensor(float16)": "HALF", "tensor(int64)": "INT64"}


class Error(Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorLaunchFailure = 719
    cudaErrorSystemNotReady = 802
    cudaErrorStreamCaptureUnsupported = 900


class Kind(Enum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class FakeCuda:
    """The part of `cuda.bindings.runtime` that perception.engines.cuda uses."""

    cudaError_t, cudaMemcpyKind = Error, Kind
    cudaHostAllocDefault = cudaStreamNonBlocking = cudaEventDefault = 0

    class cudaStreamCaptureMode:
        cudaStreamCaptureModeThreadLocal = 1

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room  # [bytes]
        self.blocks: dict[int, Any] = {}
        self.captured: list[Callable[[], None]] | None = None
        self.launches = self.waits = self.uploads = 0
        self.is_lost = False
        self.begun: list[Callable[[], object]] = []  # in the default stream, which nobody has waited for yet
        self.open: set[int] = set()  # handles of streams, graphs and events
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self._handles = itertools.count(7)

    def made(self) -> int:
        handle = next(self._handles)
        self.open.add(handle)
        return handle

    def given_back(self, handle: int):
        self.open.remove(handle)
        return (Error.cudaSuccess,)

    cudaStreamDestroy = cudaEventDestroy = given_back

    def do(self, work: Callable[[], None]) -> None:
        """Now, or later where a stream is being captured."""
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def cudaMalloc(self, size: int):
        if sum(len(b) for b in self.blocks.values()) + size > self.room:
            return Error.cudaErrorMemoryAllocation, None
        block = (ctypes.c_uint8 * size)()
        self.blocks[ctypes.addressof(block)] = block
        return Error.cudaSuccess, ctypes.addressof(block)

    def cudaHostAlloc(self, size: int, flags: int):
        return self.cudaMalloc(size)

    def cudaFree(self, address: int):
        self.blocks.pop(address)
        return (Error.cudaSuccess,)

    cudaFreeHost = cudaFree

    def cudaMemset(self, address: int, value: int, size: int):
        self.begun.append(lambda: ctypes.memset(address, value, size))
        return (Error.cudaSuccess,)

    def cudaMemcpy(self, to: int, source: int, size: int, kind: Kind):
        ctypes.memmove(to, source, size)
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: Kind, stream: int):
        def copy() -> None:
            self.uploads += kind is Kind.cudaMemcpyHostToDevice
            ctypes.memmove(to, source, size)

        self.do(copy)
        return (Error.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int):
        return Error.cudaSuccess, self.made()

    def cudaStreamSynchronize(self, stream: int):
        assert self.captured is None, "a wait can't be captured"
        if stream == 0:
            begun, self.begun = self.begun, []
            for work in begun:
                work()
            return (Error.cudaSuccess,)
        self.waits += 1
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: int):
        self.captured = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int):
        work, self.captured = self.captured, None
        return Error.cudaSuccess, work

    def cudaGraphInstantiate(self, graph: list, flags: int):
        handle = self.made()
        self.graphs[handle] = list(graph)
        return Error.cudaSuccess, handle

    def cudaGraphLaunch(self, graph: int, stream: int):
        self.launches += 1
        for work in self.graphs[graph]:
            work()
        return (Error.cudaSuccess,)

    def cudaGraphDestroy(self, graph: Any):
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, graph: int):
        del self.graphs[graph]
        return self.given_back(graph)

    def cudaMemGetInfo(self):
        if self.is_lost:
            return Error.cudaErrorLaunchFailure, None, None
        used = sum(len(b) for b in self.blocks.values())
        return Error.cudaSuccess, self.room - used, self.room

    def cudaEventCreateWithFlags(self, flags: int):
        return Error.cudaSuccess, self.made()

    def cudaEventRecord(self, event: int, stream: int):
        return (Error.cudaSuccess,)

    def cudaEventElapsedTime(self, start: int, end: int):
        return Error.cudaSuccess, 0.5

    def cudaEventSynchronize(self, event: int):
        return (Error.cudaSuccess,)

    def cudaGetLastError(self):
        return (Error.cudaSuccess,)

    def cudaGetErrorName(self, error: Error):
        return Error.cudaSuccess, error.name.encode()

    def cudaGetErrorString(self, error: Error):
        return Error.cudaSuccess, b"as it says"


class FakeTrt:
    class TensorIOMode(Enum):
        INPUT = 0
        OUTPUT = 1


class FakePlan:
    """An ONNX graph as an ICudaEngine."""

    def __init__(self, graph: Path, cuda: FakeCuda, captures: bool = True) -> None:
        self.session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self.cuda, self.captures = cuda, captures
        self.ins = [node.name for node in self.session.get_inputs()]
        self.nodes = {n.name: n for n in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.nodes)

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)

    def get_tensor_name(self, index: int) -> str:
        return [*self.nodes][index]

    def get_tensor_mode(self, name: str) -> FakeTrt.TensorIOMode:
        return FakeTrt.TensorIOMode.INPUT if name in self.ins else FakeTrt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.nodes[name].shape)

    def get_tensor_dtype(self, name: str) -> Any:
        return _Type(TYPES[str(self.nodes[name].type)])


class _Type:
    def __init__(self, name: str) -> None:
        self.name = name


class FakeContext:
    def __init__(self, plan: FakePlan) -> None:
        self.plan = plan
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self.plan.cuda.captured is not None and not self.plan.captures:
            return False
        addresses = dict(self.addresses)
        self.plan.cuda.do(lambda: self._run(addresses))
        return True

    def _run(self, addresses: dict[str, int]) -> None:
        feed = {name: self._at(name, addresses).copy() for name in self.plan.ins}
        names = [name for name in self.plan.nodes if name not in self.plan.ins]
        for name, value in zip(names, self.plan.session.run(names, feed), strict=True):
            self._at(name, addresses)[...] = np.asarray(value)

    def _at(self, name: str, addresses: dict[str, int]) -> np.ndarray:
        node = self.plan.nodes[name]
        kind = {"FLOAT": np.float32, "UINT8": np.uint8, "HALF": np.float16, "INT64": np.int64}[TYPES[str(node.type)]]
        count = int(np.prod(node.shape, dtype=np.int64))
        block = (ctypes.c_uint8 * (count * np.dtype(kind).itemsize)).from_address(addresses[name])
        return np.ctypeslib.as_array(block).view(kind).reshape(node.shape)


class FakeLog:
    def last(self, otherwise: str) -> str:
        return otherwise
