"""A TensorRT plan at work: everything of a step is one CUDA graph, replayed, with one wait at its end."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.engines import cuda
from perception.engines.device_tensor import DeviceTensor
from perception.engines.tensorrt_api import DTYPES
from perception.errors import DeviceError, ModelError
from perception.protocols import TensorSpec


class TensorRtEngine:
    """Implements `protocols.KeepingEngine`. Not for several threads at once; made by `TensorRtCompiler.open`.

    A step is: host arrays to pinned memory; then, in one CUDA graph, uploads, kernels and downloads; then a wait. The
    first step of each kind runs without a graph, since TensorRT prepares itself then; from the second it is replayed.

    Raises:
        ModelError: the plan's shapes are not static or a type is none of numpy's.
        DeviceError: the GPU is full or lost.
    """

    name = "tensorrt"

    def __init__(self, trt: Any, runtime: Any, plan: Any, log: Any) -> None:
        self._trt, self._runtime, self._log = trt, runtime, log
        self._plan: Any = plan
        self._context: Any = plan.create_execution_context()
        if self._context is None:
            raise DeviceError(f"TensorRT can't prepare the plan: {log.last('the GPU is probably full')}")
        specs = [(_spec(trt, plan, i), _is_input(trt, plan, i)) for i in range(plan.num_io_tensors)]
        self.inputs = tuple(spec for spec, is_input in specs if is_input)
        self.outputs = tuple(spec for spec, is_input in specs if not is_input)
        self._specs = {spec.name: spec for spec, _ in specs}
        self._stream = cuda.Stream()
        self._buffers = {name: cuda.Buffer(_size(spec)) for name, spec in self._specs.items()}
        self._pinned: dict[str, cuda.Pinned] = {}
        self._state: dict[str, str] = {}  # input -> output
        self._left: frozenset[str] = frozenset()
        self._is_swapped = False
        self._graphs: dict[tuple[bool, frozenset[str]], cuda.Graph | None] = {}
        self.replays = True  # steps as graphs; False once capturing failed, with the reason below
        self.why_not_replayed = ""

    # What stays on the GPU

    def keep_state(self, pairs: Mapping[str, str]) -> None:
        """Let outputs be the next step's inputs, on the GPU, zeros at first; neither is given or taken any more.

        Args:
            pairs: input -> output, of equal shape and dtype.
        """
        for taken, given in pairs.items():
            a, b = self._specs[taken], self._specs[given]
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                raise ModelError(f"{given} {b.shape} can't become {taken} {a.shape}")
        self._state = dict(pairs)
        self._forget_graphs()
        self.load_state({name: np.zeros(_shape(self._specs[name]), self._specs[name].dtype) for name in pairs})

    def leave(self, outputs: Collection[str]) -> None:
        """Give these outputs as `DeviceTensor`, valid until the next step, and download them no more."""
        if frozenset(outputs) != self._left:
            self._left = frozenset(outputs)
            self._forget_graphs()

    def read_state(self) -> dict[str, NDArray]:
        """By input name, what the next step will read; copies."""
        return {name: np.array(self._tensor(name)) for name in self._state}

    def load_state(self, arrays: Mapping[str, NDArray]) -> None:
        """Let the next step read these, by input name: another engine's `read_state`."""
        for name in self._state:
            self._fill(name, arrays[name])
            self._stream.upload(self._address(name), self._host(name).address, _size(self._specs[name]))
        self._stream.wait()

    def fork(self) -> TensorRtEngine:
        """Another one of the same plan and weights, with buffers and a state of its own."""
        other = TensorRtEngine(self._trt, self._runtime, self._plan, self._log)
        if self._state:
            other.keep_state(self._state)
        other.leave(self._left)
        return other

    # A step

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Arrays are pinned memory that the next call overwrites; an input may be another engine's `DeviceTensor`.

        Raises:
            ModelError: an input is missing or of another shape or dtype. DeviceError: the GPU failed.
        """
        taken = [spec.name for spec in self.inputs if spec.name not in self._state]
        resident = frozenset(name for name in taken if isinstance(arrays.get(name), DeviceTensor))
        for name in taken:
            if name in resident:
                self._take(name, arrays[name])
            else:
                self._fill(name, arrays.get(name))
        self._step(frozenset(taken) - resident)
        self._stream.wait()
        self._is_swapped ^= bool(self._state)
        hidden = set(self._state.values())
        return {s.name: self._result(s.name) for s in self.outputs if s.name not in hidden}

    def _step(self, uploads: frozenset[str]) -> None:
        key = (self._is_swapped, uploads)
        graph = self._graphs.get(key)
        if graph is None and key in self._graphs and self.replays:
            graph = self._graphs[key] = self._captured(uploads)
        if graph is None:
            self._begin(uploads)
            self._graphs.setdefault(key, None)
        else:
            self._stream.launch(graph)

    def _captured(self, uploads: frozenset[str]) -> cuda.Graph | None:
        try:
            with self._stream.captured() as graph:
                self._begin(uploads)
        except DeviceError as error:
            self.replays, self.why_not_replayed = False, str(error)
            return None
        return graph

    def _begin(self, uploads: Collection[str]) -> None:
        """Uploads, kernels and downloads, in order."""
        for name in sorted(uploads):
            self._stream.upload(self._address(name), self._host(name).address, _size(self._specs[name]))
        self._begin_kernels()
        for spec in self.outputs:
            if spec.name not in self._left and spec.name not in self._state.values():
                self._stream.download(self._host(spec.name).address, self._address(spec.name), _size(spec))

    def _begin_kernels(self) -> None:
        for name in self._specs:
            self._context.set_tensor_address(name, self._address(name))
        if not self._context.execute_async_v3(self._stream.handle):
            raise DeviceError(f"TensorRT failed: {self._log.last('no reason given')}")

    def kernels_ms(self, repeats: int) -> list[float]:
        """How long the plan alone takes on the last inputs, without any copy, as graphs where it can be one [ms].

        The state goes on by none or more steps: for measuring only.
        """
        before, after = cuda.Event(), cuda.Event()
        graph = None
        if self.replays:
            with self._stream.captured() as graph:
                self._begin_kernels()
        times = []
        for _ in range(repeats):
            before.record(self._stream)
            if graph is None:
                self._begin_kernels()
            else:
                self._stream.launch(graph)
            after.record(self._stream)
            after.wait()
            times.append(after.ms_since(before))
        for thing in (graph, before, after):
            if thing is not None:
                thing.close()
        return times

    def close(self) -> None:
        """Give back all of the GPU's memory that is not shared with a fork."""
        self._forget_graphs()
        self._context = None
        for buffer in self._buffers.values():
            buffer.close()
        self._pinned = {}
        self._stream.close()
        self._plan = self._runtime = None

    # Where things are

    def _address(self, name: str) -> int:
        """Of a tensor in this step: a state's two buffers change places after each."""
        if self._is_swapped:
            given = {output: taken for taken, output in self._state.items()}
            name = self._state.get(name, given.get(name, name))
        return self._buffers[name].address

    def _tensor(self, name: str) -> DeviceTensor:
        spec = self._specs[name]
        return DeviceTensor(self._address(name), _shape(spec), np.dtype(spec.dtype))

    def _result(self, name: str) -> Any:
        return self._tensor(name) if name in self._left else self._host(name).array

    def _host(self, name: str) -> cuda.Pinned:
        if name not in self._pinned:
            spec = self._specs[name]
            self._pinned[name] = cuda.Pinned(_shape(spec), spec.dtype)
        return self._pinned[name]

    def _fill(self, name: str, array: NDArray | None) -> None:
        spec = self._specs[name]
        if array is None or array.shape != spec.shape or array.dtype != spec.dtype:
            given = "missing" if array is None else f"{array.dtype} {array.shape}"
            raise ModelError(f"input {name} is {given}; the plan takes {spec.dtype} {spec.shape}")
        np.copyto(self._host(name).array, array)

    def _take(self, name: str, tensor: Any) -> None:
        spec = self._specs[name]
        if tensor.shape != spec.shape or tensor.dtype != spec.dtype:
            raise ModelError(f"input {name} is {tensor.dtype} {tensor.shape}; the plan takes {spec.dtype} {spec.shape}")
        self._stream.copy(self._address(name), tensor.address, _size(spec))

    def _forget_graphs(self) -> None:
        for graph in self._graphs.values():
            if graph is not None:
                graph.close()
        self._graphs = {}


def _is_input(trt: Any, plan: Any, i: int) -> bool:
    return plan.get_tensor_mode(plan.get_tensor_name(i)) == trt.TensorIOMode.INPUT


def _spec(trt: Any, plan: Any, i: int) -> TensorSpec:
    name = plan.get_tensor_name(i)
    shape, kind = tuple(plan.get_tensor_shape(name)), plan.get_tensor_dtype(name).name
    if kind not in DTYPES or min(shape, default=1) < 0:
        raise ModelError(f"the plan's {name} is {kind} {shape}; it must be of a static shape and a type of numpy's")
    return TensorSpec(name, shape, DTYPES[kind])


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(int(n or 0) for n in spec.shape)


def _size(spec: TensorSpec) -> int:
    """[bytes]"""
    return np.dtype(spec.dtype).itemsize * math.prod(_shape(spec))
