"""TensorRT 8.6, 10 and 11: compiles graphs to plans for the GPU of this machine, and runs them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.engines.plan import Precision, Progress, Target
from perception.engines.tensorrt_api import (
    COMPILING,
    check_capability,
    check_precision,
    load_tensorrt,
    logger,
    network_flags,
    set_precision,
    set_tactics,
    watch,
)
from perception.errors import DeviceError, ModelError, reason
from perception.whole_file import write

if TYPE_CHECKING:
    from perception.engines.tensorrt_engine import TensorRtEngine

WORKSPACE = 4 << 30  # most memory that a layer may use while it computes [bytes]
_CODE = [Path(__file__), Path(__file__).with_name("tensorrt_api.py")]  # that decides what a plan is
SHARE_OF_FREE = 2  # and not more than the free memory divided by this
# Words of TensorRT's that are of the GPU, in lower case: "Error Code 1: Cuda Runtime (unspecified launch failure)"
LOST = ("out of memory", "outofmemory", "cudaerror", "cuda runtime", "cuda driver")
LOST += ("cuda failure", "cuda error", "cuda initialization failure")
REFUSED = "kernel image"  # CUDA's word for code that it can't load: the plan's fault after all


class TensorRtCompiler:
    """Implements `plan.PlanCompiler`.

    Args:
        device: number of the GPU.
    """

    name = "tensorrt"

    def __init__(self, device: int = 0) -> None:
        self.device = device

    def target(self) -> Target:
        """This machine's.

        Raises:
            ModelError: TensorRT, a driver or the GPU is missing, with the fix. DeviceError: CUDA can't use it now.
        """
        trt = load_tensorrt()
        from perception.engines import cuda

        cuda.select(self.device)
        device, driver = cuda.device_name(self.device), cuda.driver_version()
        return Target(self.name, trt.__version__, device, cuda.capability(self.device), driver)

    @property
    def flags(self) -> tuple[str, ...]:
        """What is set for every build, for people; and the code that sets it, so that none is forgotten."""
        code = hashlib.sha256(b"".join(path.read_bytes() for path in _CODE)).hexdigest()
        return (f"workspace={WORKSPACE >> 20}MiB", "no-tf32", "types-of-the-graph", "no-cudnn-cublas", f"code={code}")

    def check(self, precision: Precision) -> None:
        """Raises ModelError where TensorRT or the GPU has no such precision: before anybody makes a graph in it."""
        check_precision(load_tensorrt(), precision)
        check_capability(self.target().capability, precision)

    def compile(self, graph: Path, out: Path, precision: Precision, timing_cache: Path, progress: Progress) -> None:
        """Write the plan of a graph to `out`; minutes. The graph's types are the plan's: see `models.lowering`.

        Args:
            graph: .onnx, of static shapes.
            out: the plan; there only when it is whole.
            precision: that the graph was lowered to.
            timing_cache: what earlier builds measured; read, and renewed. One of another GPU or version is ignored.
            progress: called from this thread, often.

        Raises:
            ModelError: TensorRT can't compile the graph, in its own words. DeviceError: the GPU is full or lost.
        """
        trt = load_tensorrt()
        from perception.engines import cuda

        cuda.select(self.device)
        check_precision(trt, precision)
        log = logger(trt)
        builder = _made(trt.Builder, log)
        network = builder.create_network(network_flags(trt))
        _parse(trt, network, graph, log)
        config = builder.create_builder_config()
        room = min(WORKSPACE, cuda.memory()[0] // SHARE_OF_FREE)
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, room)
        set_precision(trt, config, network, precision)
        set_tactics(trt, config)
        cache = _with_timings(config, timing_cache)
        monitor = watch(trt, config, progress)
        plan = builder.build_serialized_network(network, config)
        del monitor
        if plan is None:
            raise _failure(f"{graph.name}: TensorRT {trt.__version__} can't compile it", log)
        _write(out, plan)
        _write(timing_cache, cache.serialize())
        progress(COMPILING, 1, 1)

    def open(self, plan: Path) -> TensorRtEngine:
        """Load a plan, on a stream of its own.

        Raises:
            ModelError: it is broken or of another target. DeviceError: the GPU is full or lost.
        """
        trt = load_tensorrt()
        from perception.engines import cuda
        from perception.engines.tensorrt_engine import TensorRtEngine

        cuda.select(self.device)
        log = logger(trt)
        runtime = _made(trt.Runtime, log)
        try:
            engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        except OSError as error:
            raise ModelError(f"{plan}: {reason(error)}") from None
        if engine is None:
            raise _failure(f"{plan.name}: TensorRT {trt.__version__} can't load it", log)
        return TensorRtEngine(trt, runtime, engine, log)


def compiled_and_opened(graph: Path) -> TensorRtEngine:
    """A graph in the types that it has, compiled here and now, kept nowhere: for measuring; minutes.

    Raises:
        ModelError, DeviceError: as `compile` and `open`.
    """
    compiler = TensorRtCompiler()
    compiler.target()
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "plan"
        compiler.compile(graph, plan, "fp32", Path(folder) / "timings", lambda _what, _done, _total: None)
        return compiler.open(plan)


def _made(kind: Callable[[Any], Any], log: Any) -> Any:
    """A Builder or Runtime; the bindings raise TypeError where TensorRT gives none."""
    try:
        return kind(log)
    except TypeError as error:
        raise _failure("TensorRT can't start", log, log.last(str(error))) from None


def _failure(what: str, log: Any, why: str = "") -> ModelError | DeviceError:
    """A DeviceError where TensorRT or CUDA says that it is the GPU: a caller deletes a plan for a ModelError.

    Args:
        what: what failed.
        log: all of it counts, since TensorRT sums up ("Engine deserialization failed.") after it has told the cause.
        why: if it is not the GPU; else the log's last words.
    """
    if cause := next((words for words in log.told if _is_of_gpu(words)), "") or _gpu_error():
        return DeviceError(f"{what}: {cause[:300]}")
    return ModelError(f"{what}: {why or log.last('no reason given')}")


def _is_of_gpu(words: str) -> bool:
    lower = words.lower()
    return any(word in lower for word in LOST) and REFUSED not in lower


def _gpu_error() -> str:
    """CUDA's words where a cheap call fails by now, as all do once the GPU is lost."""
    from perception.engines import cuda

    try:
        cuda.memory()
    except DeviceError as error:
        return str(error)
    return ""


def _parse(trt: Any, network: Any, graph: Path, log: Any) -> None:
    """Raises ModelError with the first thing that the parser does not understand, DeviceError where it is the GPU."""
    parser = trt.OnnxParser(network, log)
    try:
        data = graph.read_bytes()
    except OSError as error:
        raise ModelError(f"{graph}: {reason(error)}") from None
    if parser.parse(data):
        return
    wrong = parser.get_error(0) if parser.num_errors else None
    why = "" if wrong is None else f"node {wrong.node()}: {' '.join(wrong.desc().split())[:300]}"
    raise _failure(f"{graph.name}: TensorRT {trt.__version__} can't read it", log, why)


def _with_timings(config: Any, file: Path) -> Any:
    """The timing cache of a file, or an empty one where it is absent or not of this GPU and version."""
    for data in (file.read_bytes() if file.is_file() else b"", b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    raise ModelError("TensorRT takes no timing cache, not even an empty one")


def _write(path: Path, data: Any) -> None:
    """All of it or nothing."""
    try:
        write(path, memoryview(data))
    except OSError as error:
        raise ModelError(f"{path}: {reason(error)}") from None
