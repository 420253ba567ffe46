"""The frame's side of serving: calls the engine that serves, falls to the bottom within the frame when it fails, and
takes a better one between two frames."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception.errors import DeviceError, ModelError
from perception.serving.rungs import Opened, Size, Standing, hosted, hosted_features
from perception.serving.samples import KINDS, Sample, encoding, seeing
from perception.serving.segments import require_numbers
from perception.types import Features, Panoptic, Scene, Validity

log = logging.getLogger(__name__)
T = TypeVar("T")

TRUSTED = (Validity.OBSERVED, Validity.PROPAGATED)
SETTLED = 100  # calls, after which an engine is not one that ends the process at once
SLOWER = 1.2  # times the bottom's time: then the accelerator is none
EVERY = 30  # calls of a kind between two looks at that


class Watcher(Protocol):
    """Who hears of what happens to engines; called by the frame's thread, which must not be kept waiting."""

    def fell(self, standing: Standing, reason: str, is_missed: bool) -> None:
        """It was left for the bottom; not missed where it works, and the bottom is faster."""
        ...

    def settled(self, standing: Standing) -> None: ...
    def took(self, standing: Standing) -> None: ...
    def left(self, standing: Standing) -> None:
        """It serves no longer, for a better one does."""
        ...

    @property
    def has_time(self) -> bool:
        """To check a call in the background."""
        ...

    def sampled(self, standing: Standing, kind: str, sample: Sample) -> None:
        """Of each kind one call in N."""
        ...


class Ladder:
    """The engine that serves now, and the bottom that always can.

    Args:
        bottom: the engine that works anywhere; its errors are the frame's.
        check_every: one call of a kind in so many is checked in the background.
        must_be_faster: an accelerator that is slower than the bottom is left.
        is_pinned: what serves first serves to the end, and its errors are the frame's.

    Attributes:
        fallen: why a worse engine serves than should; "" where the best does.
        answered: who answered the last step.
    """

    def __init__(
        self,
        bottom: Opened,
        check_every: int = 300,
        must_be_faster: bool = True,
        clock: Callable[[], float] = time.monotonic,
        is_pinned: bool = False,
    ) -> None:
        self.is_pinned = is_pinned
        self.bottom = self.serving = self.answered = Standing(bottom)
        self.watcher: Watcher | None = None
        self.fallen = ""
        self._check_every, self._must_be_faster, self._clock = check_every, must_be_faster, clock
        self._lock = threading.Lock()
        self._offered: tuple[Standing, bool] | None = None
        self._seen: Counter[str] = Counter()  # calls of each kind since the last check

    @property
    def engine(self) -> str:
        """The name of what serves."""
        return self.serving.opened.name

    def offer(self, standing: Standing, mends: bool) -> Standing | None:
        """Have a better engine serve from the next frame on; one that was offered before, and is not needed now.

        Args:
            mends: it is as good as the one that fell.
        """
        with self._lock:
            before, self._offered = self._offered, (standing, mends)
        return before[0] if before else None

    def take_back(self) -> Standing | None:
        """What was offered and not taken, if anything."""
        with self._lock:
            before, self._offered = self._offered, None
        return before[0] if before else None

    def settle(self) -> None:
        """Between two frames: take what is offered. Nothing else changes what serves but a fall."""
        if self._offered is None:
            return
        with self._lock:
            offered, self._offered = self._offered, None
            if offered is None:
                return
            before, (self.serving, mends) = self.serving, offered
            self.fallen = "" if mends else self.fallen
        self._seen = Counter(dict.fromkeys(KINDS, self._check_every - 1))  # the first calls of a new one are checked
        self.serving.opened.began()
        log.info("%s serves now", self.engine)
        if self.watcher:
            self.watcher.took(self.serving)
            if before is not self.bottom:
                self.watcher.left(before)

    def demote(self, standing: Standing, reason: str, is_missed: bool = True) -> None:
        """Leave an engine, if it still serves; callable from any thread.

        A frame that it has in work then is marked too: `fallen` is said before the engine is left.

        Args:
            is_missed: a worse one serves from now on.
        """
        with self._lock:
            if self.serving is not standing or standing is self.bottom or self.is_pinned:
                return
            told = f"{self.engine}: {reason}; {self.bottom.opened.name} serves"
            self.fallen = told if is_missed else self.fallen
            self.serving = self.bottom
        log.warning("%s", told)
        if self.watcher:
            self.watcher.fell(standing, reason, is_missed)

    def mend(self, was: str, now: str) -> None:
        """What was missed is not; something else may be. Unless something else has fallen since."""
        with self._lock:
            self.fallen = now if self.fallen == was else self.fallen

    def step(self, kind: str, call: Callable[[Opened], T]) -> T:
        """What the serving engine answers, or the bottom, where that fails. Raises the bottom's ModelError."""
        standing = self.serving
        try:
            value = standing.run(kind, call, self._clock)
        except (ModelError, DeviceError) as error:
            if standing is self.bottom or self.is_pinned:
                raise
            self.demote(standing, str(error))
            self.answered = self.bottom
            return self.bottom.run(kind, call, self._clock)
        self.answered = standing
        if standing is not self.bottom and not self.is_pinned:
            self._look(standing, kind)
        return value

    def _look(self, standing: Standing, kind: str) -> None:
        if self.watcher and not standing.has_settled and standing.calls.total() >= SETTLED:
            standing.has_settled = True  # other calls count too: the hundredth may not have been a step
            self.watcher.settled(standing)
        usual = standing.usual_s(kind) if standing.calls[kind] % EVERY == 0 else None
        if usual and (reason := self.too_slow(kind, usual)):
            self.demote(standing, reason, is_missed=False)

    def no_gain(self, usual_s: float) -> str:
        """Why an engine whose network takes so long a frame need not serve; "" where it is a gain, or nobody minds."""
        serving, other_s = self.serving, self.serving.usual_s("network")
        if self._must_be_faster and serving is not self.bottom and other_s and usual_s >= other_s:
            return _slow(usual_s, serving.opened.name, other_s)
        return self.too_slow("network", usual_s)

    def too_slow(self, kind: str, usual_s: float) -> str:
        """Why an engine that takes so long a call is no gain over the bottom; "" where it is, or nobody minds."""
        other_s = self.bottom.usual_s(kind)
        if not self._must_be_faster or not other_s or usual_s <= SLOWER * other_s:
            return ""
        return _slow(usual_s, self.bottom.opened.name, other_s)

    def check_soon(self, kind: str) -> None:
        """Have the next call of a kind checked."""
        self._seen[kind] = self._check_every

    def wants(self, kind: str) -> bool:
        """Whether the call of this kind that comes or was is one to check, and there is time. Once for each call."""
        self._seen[kind] += 1
        if self.is_pinned or self._seen[kind] < self._check_every or self.serving is self.bottom:
            return False
        return self.watcher is not None and self.watcher.has_time

    def kept(self, standing: Standing, keep: Callable[[], T]) -> T | None:
        """What is fetched for a check, in the engine's thread; None, and it is left, where it fails."""
        try:
            return standing.run("sample", lambda _: keep(), self._clock)
        except (ModelError, DeviceError) as error:
            self.demote(standing, str(error))
            return None

    def tell(self, standing: Standing, kind: str, sample: Sample) -> None:
        """Have a call checked."""
        self._seen[kind] = 0
        if self.watcher:
            self.watcher.sampled(standing, kind, sample)

    def sample(self, kind: str, keep: Callable[[], Sample]) -> None:
        """The call that was made last, if it is to be checked."""
        standing = self.serving
        if self.wants(kind) and (sample := self.kept(standing, keep)):
            self.tell(standing, kind, sample)

    def mark(self, scene: Scene) -> Scene:
        """Say so in a scene that was made by a worse engine than should serve."""
        if not self.fallen or scene.validity not in TRUSTED:
            return scene
        return dataclasses.replace(scene, validity=Validity.DEGRADED, reason=self.fallen)


def _slow(usual_s: float, other: str, other_s: float) -> str:
    return f"slow: {1e3 * usual_s:.1f} ms a call, where {other} takes {1e3 * other_s:.1f}"


class ServedModel:
    """The model of whatever serves. Implements `perception.protocols.Model`.

    Args:
        ladder: whose bottom gives the size of the masks.
        pin: is called once before the first image is seen, with its size; raises ModelError.
        keeps: what is seen stays valid after the next call.

    Attributes:
        image: the last one, (h, w, 3); None before the first.
        seen_by: where the features of the last image are.
    """

    def __init__(self, ladder: Ladder, pin: Callable[[Size], None] | None = None, keeps: bool = False) -> None:
        self._ladder, self._pin, self._keeps = ladder, pin, keeps
        self.mask_size = ladder.bottom.opened.model.mask_size
        self.image: NDArray[np.uint8] | None = None
        self.seen_by = ladder.bottom

    def frame_size(self) -> tuple[int, int] | None:
        """Width and height of the last image [px]."""
        return None if self.image is None else (self.image.shape[1], self.image.shape[0])

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        self.take(image)
        bottom = self._ladder.bottom.opened

        def look(opened: Opened) -> Panoptic:
            seen = opened.model(image)
            if opened is not bottom:
                require_numbers(seen.features, seen.segments)
            return hosted(seen) if self._keeps else seen

        seen, self.seen_by = self._ladder.step("network", look), self._ladder.answered
        self._ladder.sample("network", lambda: seeing(image, hosted(seen)))
        return seen

    def take(self, image: NDArray[np.uint8]) -> None:
        """It is this image's turn. Raises ModelError where nothing may see it."""
        self.image = image
        if self._pin:
            self._pin((image.shape[1], image.shape[0]))
            self._pin = None

    def features(self, image: NDArray[np.uint8]) -> Features | None:
        self.take(image)
        bottom = self._ladder.bottom.opened

        def look(opened: Opened) -> Features | None:
            found = opened.model.features(image) or bottom.model.features(image)
            if opened is not bottom:
                require_numbers(found)
            return hosted_features(found) if found and self._keeps else found

        found, self.seen_by = self._ladder.step("encoder", look), self._ladder.answered
        if found:
            self._ladder.sample("encoder", lambda: encoding(image, hosted_features(found)))
        return found

    def close(self) -> None:
        """The bottom alone; what is above it is closed by the one who opened it."""
        self._ladder.bottom.opened.model.close()
