"""What a node does about a request: prompts, removals, new classes, and the list of tracks. No sockets here."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Protocol

import numpy as np

from perception.errors import PerceptionError, PromptError
from perception.propagation.prompt_mask import mask_of_prompt
from perception.protocols import Playing, Propagator
from perception.sinks.messages import NO_CLASS
from perception.types import VOID, Frame, Prompt, Scene, TrackState
from perception.wire.control import (
    LiveRow,
    PlayRequest,
    PlayRow,
    PromptRequest,
    RelabelRequest,
    RemoveRequest,
    Reply,
    Request,
    SaveRequest,
    TracksRequest,
    unpack_mask,
)

log = logging.getLogger(__name__)

LONGEST_LOOK_S = 0.5
"""How much older the frame that a caller looked at may be than the one that its prompt is applied to."""
_FRAMES_KNOWN = 256
_LONGEST_ERROR = 400  # characters
_LONGEST_REASON = 100


def refusal(error: object, camera: str = "", frame_seq: int | None = None) -> Reply:
    """A reply that says why not: one line of bounded length, whatever the request was made of."""
    return Reply(ok=False, error=" ".join(str(error).split())[:_LONGEST_ERROR], camera=camera, frame_seq=frame_seq)


class Player(Protocol):
    """A drive that can be paused and moved; every method may be called from any thread."""

    def play(
        self, *, pause: bool | None = None, step: bool = False, seek_s: float | None = None, speed: float | None = None
    ) -> Playing:
        """Do these, and tell how it stands then. Raises SourceError for what can't be."""
        ...


class Answers:
    """Answers requests about the frame that was stepped last.

    Attributes:
        save: saves what a recording ring holds, given the reason; None where there is none.
        player: the drive that is being played; None for a live source.
    """

    save: Callable[[str], None] | None = None
    player: Player | None = None

    def __init__(self, camera: str, classes: tuple[str, ...]) -> None:
        self._camera, self._classes = camera, classes
        self._stamps: deque[tuple[int, int]] = deque(maxlen=_FRAMES_KNOWN)  # seq and stamp [ns] of the last frames

    def note(self, frame: Frame) -> None:
        """To be called for every frame that was stepped."""
        self._stamps.append((frame.seq, frame.stamp_ns))

    def answer_at_once(self, request: PlayRequest) -> Reply:
        """What needs no frame, and is asked when none comes: how a drive is played. Never raises; from any thread."""
        if self.player is None:
            return refusal("the source is live, or being recorded: it can't be paused or moved", self._camera)
        try:
            now = self.player.play(pause=request.pause, step=request.step, seek_s=request.seek_s, speed=request.speed)
        except PerceptionError as error:
            return refusal(error, self._camera)
        return Reply(True, camera=self._camera, play=PlayRow(**asdict(now)))

    def why_no_frame(self) -> str:
        """Why none comes, and what helps, as far as it is known here; from any thread."""
        if self.player and self.player.play().is_paused:
            return "the drive is paused: go on with p in its terminal, or play or step in its view, and ask again"
        return "see the health topic"

    def answer(self, request: Request, propagator: Propagator, frame: Frame, scene: Scene) -> Reply:
        """Do what is asked; what can't be done is said in the reply and changes nothing. Never raises."""
        try:
            reply = self._done(request, propagator, frame, scene)
        except PerceptionError as error:
            return refusal(error, self._camera, frame.seq)
        except Exception as error:  # a fault of ours that somebody's request has met must not end the node
            log.exception("a request failed: %s", type(request).__name__)
            return refusal(f"the node failed at this: {type(error).__name__}: {error}", self._camera, frame.seq)
        if not isinstance(request, TracksRequest | SaveRequest | PlayRequest):
            log.info("%s: track %s in frame %d", type(request).__name__, reply.track_id, frame.seq)
        return reply

    def _done(self, request: Request, propagator: Propagator, frame: Frame, scene: Scene) -> Reply:
        track_id, box, tracks = None, None, ()
        match request:
            case PromptRequest():
                track_id, box = self._prompt(request, propagator, frame, scene)
            case RemoveRequest():
                track_id = request.track_id
                propagator.remove(track_id)
            case RelabelRequest():
                track_id = request.track_id
                propagator.relabel(track_id, self._class_id(request.class_name))
            case TracksRequest():
                tracks = self._rows(scene)
            case SaveRequest():
                self._save(request.reason)
            case PlayRequest():
                return self.answer_at_once(request)
        return Reply(True, "", camera=self._camera, frame_seq=frame.seq, track_id=track_id, box=box, tracks=tracks)

    def _save(self, reason: str) -> None:
        if self.save is None:
            raise PromptError("no ring is recorded here, so there is nothing to save: set ring_s under [record]")
        self.save(" ".join(f"control {reason}".split())[:_LONGEST_REASON])

    def _prompt(
        self, request: PromptRequest, propagator: Propagator, frame: Frame, scene: Scene
    ) -> tuple[int, tuple[int, int, int, int]]:
        """The new track and its box [frame px]; the propagator is given the very mask that the box is told of."""
        self._check_look(request.frame_seq, frame)
        mask = unpack_mask(request.mask) if request.mask else None
        prompt = Prompt(request.points, request.box, mask, self._class_id(request.class_name))
        found = mask_of_prompt(prompt, frame, scene)
        track_id = propagator.prompt(Prompt(mask=found, class_id=prompt.class_id))
        rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        return track_id, in_frame(box, scene)

    def _check_look(self, seq: int | None, frame: Frame) -> None:
        if seq is None:
            return
        stamp_ns = dict(self._stamps).get(seq)
        if stamp_ns is None:
            raise PromptError(f"frame {seq} is none of the last ones; the node is at {frame.seq}: look again")
        if (late_s := (frame.stamp_ns - stamp_ns) / 1e9) > LONGEST_LOOK_S:
            raise PromptError(
                f"frame {seq} was {late_s:.1f} s before frame {frame.seq}, at most {LONGEST_LOOK_S:g} s: "
                "the thing may have moved; look again"
            )

    def _class_id(self, name: str) -> int:
        if name in ("", NO_CLASS):
            return VOID
        if name not in self._classes:
            raise PromptError(
                f"no class {name[:40]!r}; the model has {', '.join(self._classes)}; none at all is fine too"
            )
        return self._classes.index(name)

    def _rows(self, scene: Scene) -> tuple[LiveRow, ...]:
        return tuple(
            LiveRow(
                id=track.track_id,
                class_name=NO_CLASS if track.class_id == VOID else self._classes[track.class_id],
                state=str(track.state),
                box=in_frame(track.box_xyxy, scene),
                quality=round(track.quality, 3),
                prompted=track.prompted,
            )
            for track in scene.tracks
            if track.state is not TrackState.ENDED
        )


def in_frame(box: tuple[int, int, int, int], scene: Scene) -> tuple[int, int, int, int]:
    """A box of mask pixels in the camera's pixels."""
    height, width = scene.labels.shape
    sx, sy = scene.frame_size[0] / width, scene.frame_size[1] / height
    return round(box[0] * sx), round(box[1] * sy), round(box[2] * sx), round(box[3] * sy)
