"""Device memory, pinned host memory, streams, events and graphs of an NVIDIA GPU, through cuda-bindings 12 and 13.

The runtime API's own names, behind objects that free what they hold. Nothing copies or waits unless its name says so.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from perception.errors import DeviceError, ModelError

try:
    from cuda.bindings import runtime as cudart  # type: ignore[import-not-found]
except ImportError:
    raise ModelError("cuda-bindings is not installed; pip install 'perception-node[tensorrt]'") from None

HINTS = {
    "cudaErrorMemoryAllocation": "the GPU's memory is full: end other programs on it",
    "cudaErrorInsufficientDriver": "the NVIDIA driver is missing or older than cuda-bindings: install a newer driver, "
    "or on a CUDA 12 driver: pip install 'cuda-bindings<13'",
    "cudaErrorNoDevice": "no NVIDIA GPU is visible",
    "cudaErrorDevicesUnavailable": "the GPU is taken by another program or in prohibited mode",
}
MISSING = ("cudaErrorNoDevice", "cudaErrorInsufficientDriver")  # what no waiting mends
LEGACY = 0  # handle of the default stream, in which calls without a stream are begun
DRIVER_FILE = Path("/proc/driver/nvidia/version")


def call(function: Callable[..., tuple], *arguments: Any) -> Any:
    """What a function of the runtime API gives beside its error code: nothing, one value or a tuple.

    An error of an earlier asynchronous call can come out at any later one; sticky ones (a lost device, an illegal
    address) come out at every later one, until the process ends.

    Raises:
        DeviceError: the call failed, with CUDA's name of the error.
    """
    error, *values = function(*arguments)
    if error != cudart.cudaError_t.cudaSuccess:
        cudart.cudaGetLastError()  # forget it, unless it is sticky
        raise DeviceError(f"{function.__name__} failed: {_named(error)}")
    return None if not values else values[0] if len(values) == 1 else tuple(values)


def _named(error: Any) -> str:
    name, text = (f(error)[1].decode() for f in (cudart.cudaGetErrorName, cudart.cudaGetErrorString))
    return f"{name}, {HINTS.get(name, text)}"


def select(device: int) -> None:
    """Make a GPU that of this thread.

    Raises:
        ModelError: there is none of this number, or no driver, with the fix. DeviceError: any other, it may pass.
    """
    try:
        count = call(cudart.cudaGetDeviceCount)
    except DeviceError as error:
        if any(name in str(error) for name in MISSING):
            raise ModelError(f"no NVIDIA GPU can be used: {error}") from None
        raise
    except RuntimeError as error:  # of bindings that don't find a library or a function of the driver
        hint = HINTS["cudaErrorInsufficientDriver"]
        raise ModelError(f"no NVIDIA GPU can be used: {error}, {hint}") from None
    if device >= count:
        raise ModelError(f"GPU {device} is not there: this machine has {count}")
    call(cudart.cudaSetDevice, device)


def device_name(device: int) -> str:
    return call(cudart.cudaGetDeviceProperties, device).name.decode().rstrip("\0")


def capability(device: int) -> str:
    """Compute capability, such as "9.0"."""
    parts = cudart.cudaDeviceAttr
    wanted = (parts.cudaDevAttrComputeCapabilityMajor, parts.cudaDevAttrComputeCapabilityMinor)
    return ".".join(str(call(cudart.cudaDeviceGetAttribute, part, device)) for part in wanted)


def driver_version(file: Path = DRIVER_FILE) -> str:
    """The driver's own version where the kernel module tells it, else the CUDA version that it supports."""
    try:
        words = file.read_text().split()
        return next(w for w in words if w[0].isdigit() and w.count(".") >= 1)
    except (OSError, StopIteration):
        number = call(cudart.cudaDriverGetVersion)
        return f"cuda-{number // 1000}.{number % 1000 // 10}"


def memory() -> tuple[int, int]:
    """Free and whole memory of this thread's GPU [bytes]."""
    return call(cudart.cudaMemGetInfo)


def _closing(owner: object, give_back: Callable[[Any], Any], thing: Any) -> weakref.finalize:
    """Gives a thing of CUDA's back when it is called, or its owner is forgotten: once, and never at exit.

    There it would wait for a hung device; the driver frees what a process leaves. Its error, of a lost device, is no
    news.
    """
    finalizer = weakref.finalize(owner, give_back, thing)
    finalizer.atexit = False
    return finalizer


class Buffer:
    """Memory of the GPU, zeroed; freed when it is closed or forgotten."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = int(call(cudart.cudaMalloc, max(1, size)))
        self.close = _closing(self, cudart.cudaFree, self.address)
        call(cudart.cudaMemset, self.address, 0, max(1, size))
        call(cudart.cudaStreamSynchronize, LEGACY)  # it does not wait, and no `Stream` waits for it


class Pinned:
    """An array in host memory that the GPU copies from and to by itself; freed when nobody has the array any more."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        kind = np.dtype(dtype)
        size = max(1, kind.itemsize * math.prod(shape))
        self.address = int(call(cudart.cudaHostAlloc, size, cudart.cudaHostAllocDefault))
        memory = (ctypes.c_uint8 * size).from_address(self.address)
        _closing(memory, cudart.cudaFreeHost, self.address)
        self.array: NDArray = (
            np.ctypeslib.as_array(memory)[: kind.itemsize * math.prod(shape)].view(kind).reshape(shape)
        )
        self.array[...] = 0


class Stream:
    """Work in order; it does not wait for the default stream, nor does that for it. Closed when it is forgotten."""

    def __init__(self) -> None:
        self._handle: Any = call(cudart.cudaStreamCreateWithFlags, cudart.cudaStreamNonBlocking)
        self.close = _closing(self, cudart.cudaStreamDestroy, self._handle)

    @property
    def handle(self) -> int:
        """As TensorRT takes it."""
        return int(self._handle)

    def upload(self, to: int, source: int, size: int) -> None:
        """Begin to copy pinned host memory to the GPU [addresses, bytes]."""
        call(cudart.cudaMemcpyAsync, to, source, size, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice, self._handle)

    def download(self, to: int, source: int, size: int) -> None:
        call(cudart.cudaMemcpyAsync, to, source, size, cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost, self._handle)

    def copy(self, to: int, source: int, size: int) -> None:
        """Within the GPU."""
        call(cudart.cudaMemcpyAsync, to, source, size, cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice, self._handle)

    def wait(self) -> None:
        """Until all that was begun is done; raises DeviceError for what failed meanwhile."""
        call(cudart.cudaStreamSynchronize, self._handle)

    @contextmanager
    def captured(self) -> Iterator[Graph]:
        """What is begun within the block is not run but becomes the graph, which can be launched after the block."""
        graph = Graph()
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call(cudart.cudaStreamBeginCapture, self._handle, mode)
        try:
            yield graph
        except BaseException:
            _, unfinished = cudart.cudaStreamEndCapture(self._handle)
            if unfinished is not None:
                cudart.cudaGraphDestroy(unfinished)
            cudart.cudaGetLastError()
            raise
        graph.instantiate(call(cudart.cudaStreamEndCapture, self._handle))

    def launch(self, graph: Graph) -> None:
        call(cudart.cudaGraphLaunch, graph.executable, self._handle)


class Graph:
    """Work that was captured once and is launched as one. Closed when it is forgotten."""

    def __init__(self) -> None:
        self.executable: Any = None
        self.close: Callable[[], Any] = _nothing

    def instantiate(self, graph: Any) -> None:
        try:
            self.executable = call(cudart.cudaGraphInstantiate, graph, 0)
        finally:
            cudart.cudaGraphDestroy(graph)
        self.close = _closing(self, cudart.cudaGraphExecDestroy, self.executable)


def _nothing() -> None: ...


class Event:
    """A point in a stream's work, whose time is taken. Closed when it is forgotten."""

    def __init__(self) -> None:
        self._handle: Any = call(cudart.cudaEventCreateWithFlags, cudart.cudaEventDefault)
        self.close = _closing(self, cudart.cudaEventDestroy, self._handle)

    def record(self, stream: Stream) -> None:
        call(cudart.cudaEventRecord, self._handle, stream._handle)

    def wait(self) -> None:
        call(cudart.cudaEventSynchronize, self._handle)

    def ms_since(self, before: Event) -> float:
        """Time between two points that have been passed [ms]."""
        return call(cudart.cudaEventElapsedTime, before._handle, self._handle)
