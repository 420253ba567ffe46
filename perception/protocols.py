"""The five seams. Implementations inherit nothing; one `match` in `build/` chooses among them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from perception.types import Features, Frame, Panoptic, Prompt, Scene


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """What a source says of itself, at any time and from any thread."""

    state: str  # "starting" | "running" | "stalled" | "reopening" | "ended"
    reason: str  # empty while running
    captured: int  # frames read from the device
    dropped: int  # frames replaced by a newer one before the pipeline took them
    broken: int  # frames that could not be used (undecodable, another size)
    reopened: int  # how often the device was opened again


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source once it is open."""

    width: int  # [px]
    height: int  # [px]
    fps: float  # nominal; 0 when unknown
    clock: str  # "drive" (stamps count from the drive's start) or the boot id that owns the monotonic clock
    identity: str  # content hash of a drive, "" for a live source: what makes two replays the same run


@dataclass(frozen=True, slots=True)
class Playing:
    """How a recorded source is being played."""

    is_paused: bool
    speed: float  # times as fast as it was recorded
    position_s: float  # of the frame that was given last [s since the drive's begin]
    begin_s: float  # of the part that is played
    end_s: float | None  # its end; None: not known
    is_at_end: bool  # all was played; it waits to be moved


class CaptureListener(Protocol):
    """Who is told of every captured frame; by the capture thread, which must not be kept waiting."""

    def captured(self, frame: Frame, arrived_ns: int) -> Frame:
        """The frame that the pipeline may take: the same, or one with what a recording keeps of its image."""
        ...

    def dropped(self, frame: Frame, reason: str) -> None: ...
    def broken(self, seq: int, stamp_ns: int, reason: str) -> None: ...


class Source(Protocol):
    """Frames in capture order. A live source skips stale frames, a drive never does."""

    def __iter__(self) -> Iterator[Frame]: ...
    def info(self) -> SourceInfo: ...
    def status(self) -> SourceStatus: ...
    def close(self) -> None:
        """End the iteration soon, also from another thread or a signal handler. Twice is fine."""
        ...


@dataclass(frozen=True, slots=True)
class TensorSpec:
    name: str
    shape: tuple[int | None, ...]  # None where the graph leaves it open
    dtype: str  # numpy's name: "uint8", "float32", ...


class Engine(Protocol):
    """Runs one graph: named arrays in, named arrays out. Outputs are valid until the next call."""

    name: str  # "onnxruntime", "openvino", ...: said in health
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]: ...
    def close(self) -> None: ...


class KeepingEngine(Engine, Protocol):
    """An engine that can leave arrays where it runs, between its steps and for other engines there."""

    def keep_state(self, pairs: Mapping[str, str]) -> None:
        """Let outputs become inputs (input -> output) of the next step, zeros at first, unseen from outside.

        Said anew, it holds instead of what was said before; without pairs nothing is kept.
        """
        ...

    def read_state(self) -> dict[str, NDArray]: ...
    def load_state(self, arrays: Mapping[str, NDArray]) -> None: ...
    def leave(self, outputs: Collection[str]) -> None:
        """Do not fetch these outputs: what stands for them can be another such engine's input, or numpy.asarray's."""
        ...

    def fork(self) -> KeepingEngine:
        """Another of the same graph, with a state of its own."""
        ...


class Model(Protocol):
    """One image to what the network saw in it."""

    mask_size: tuple[int, int]  # width, height [px]

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic: ...
    def features(self, image: NDArray[np.uint8]) -> Features | None:
        """What the encoder alone makes of an image, for frames that the whole network skips; None without one."""
        ...

    def close(self) -> None: ...


class Outlook(Protocol):
    """Tells of frames that are still to come."""

    def is_blind(self, frame: Frame) -> bool:
        """Whether nothing will be known of it unless the network looks; to be asked of each frame once, in order."""
        ...


class Propagator(Protocol):
    """Decides which one it is: carries masks and ids from frame to frame."""

    needs_features: bool  # of frames that the network does not look at, too

    def step(self, frame: Frame, seen: Panoptic | None, features: Features | None = None) -> Scene:
        """`seen` is None on frames that the network did not look at; `features` are of this frame."""
        ...

    def prompt(self, prompt: Prompt) -> int:
        """Begin a track of what is pointed at in the frame stepped last; its id.

        Raises:
            PromptError: there is nothing to follow there, or this propagator follows no prompts.
        """
        ...

    def remove(self, track_id: int) -> None:
        """End a track. Raises PromptError where no such track lives."""
        ...

    def relabel(self, track_id: int, class_id: int) -> None:
        """Give a track another class for the rest of its life. Raises PromptError where no such track lives."""
        ...

    def outlook(self) -> Outlook:
        """Of the frames after the one stepped last; stepping does not change it."""
        ...

    def reset(self) -> None:
        """Forget the tracks, but never reuse their ids."""
        ...

    def close(self) -> None: ...


class Sink(Protocol):
    def send(self, frame: Frame, scene: Scene) -> None: ...
    def close(self) -> None: ...
