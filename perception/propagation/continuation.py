"""What identities need to outlive the process: the tracks and the next id, as one small value."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2
from perception.propagation.carrier import CELL
from perception.propagation.fusion import FusedPropagator
from perception.propagation.iou import IouPropagator
from perception.propagation.motion import BoxMotion, Course, Four
from perception.propagation.seeding import Seed
from perception.propagation.tracks import Box, Carriage, LiveTrack
from perception.types import VOID, Segment, TrackState

VERSION = 2
MOST_TRACKS = 256
LARGEST = 1e6  # of a coordinate or velocity [px, px/s]
FARTHEST = 2.0  # of its size that a thing may have moved unseen; further off, others are taken for it
NEAREST = 0.5  # of its distance that is left of a thing that comes nearer, at least: more is a misjudged growth
LARGEST_LOG = 12.0  # of a side's logarithm, and of its growth

Continued = FusedPropagator | IouPropagator
Id = Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
Stamp = Annotated[int, msgspec.Meta(ge=0)]
Pixel = Annotated[int, msgspec.Meta(ge=0, le=16384)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class TrackMemory(msgspec.Struct, frozen=True, array_like=True):
    """One track. Its motion, votes and pointer are absent for the propagator that carries nothing."""

    track_id: Id
    class_id: Annotated[int, msgspec.Meta(ge=0, le=VOID)]
    state: TrackState
    score: Share
    box: tuple[Pixel, Pixel, Pixel, Pixel]  # half open [mask px]
    first_ns: Stamp
    last_ns: Stamp
    hits: Id
    prompted: bool
    hidden_ns: Stamp  # when it was last visible [ns]
    moved_ns: Stamp = 0  # when its motion was last corrected [ns]
    place: Four = (0.0, 0.0, 0.0, 0.0)
    velocity: Four = (0.0, 0.0, 0.0, 0.0)
    sightings: Id = 1
    votes: dict[Annotated[int, msgspec.Meta(ge=0, le=VOID)], Id] = {}
    pointer: Annotated[bytes, msgspec.Meta(max_length=2048)] = b""  # float16
    mask: Annotated[bytes, msgspec.Meta(max_length=1 << 15)] = b""  # of prompted ones: packed cells of the box
    decided: Annotated[int, msgspec.Meta(ge=0, le=VOID)] | None = None  # class that a person gave it
    down_ns: Stamp = 0  # of the time since it was last visible, in which no node ran [ns]


class State(msgspec.Struct, frozen=True, array_like=True):
    """A propagator's identities after a frame. At most 256 tracks, of about 300 bytes."""

    version: int
    stamp_ns: Stamp  # of the frame
    next_id: Id
    mask_size: tuple[Pixel, Pixel]  # width, height [px]
    tracks: Annotated[tuple[TrackMemory, ...], msgspec.Meta(max_length=MOST_TRACKS)]


def remember(propagator: Continued, stamp_ns: int) -> State:
    """The identities as they are after the frame of `stamp_ns`; shares nothing with the propagator."""
    memories = tuple(_memory(track, stamp_ns) for track in propagator.life.tracks[:MOST_TRACKS])
    return State(VERSION, stamp_ns, propagator.life.next_id, propagator.mask_size, memories)


def checked(state: State) -> State:
    """The state itself; raises ValueError, saying what, where it is none that `remember` can have made."""
    if state.version != VERSION:
        raise ValueError(f"version {state.version}, this node writes {VERSION}")
    ids = [m.track_id for m in state.tracks]
    if len(set(ids)) != len(ids) or max(ids, default=0) >= state.next_id:
        raise ValueError("track ids that can't be")
    if len({len(m.pointer) for m in state.tracks}) > 1:
        raise ValueError("pointers of several lengths")
    for memory in state.tracks:
        if not _is_possible(memory, state):
            raise ValueError(f"track {memory.track_id} can't be")
    return state


def restore(propagator: Continued, state: State, stamp_ns: int) -> int:
    """Let a fresh propagator go on from a checked state; how many tracks go on.

    They begin hidden, since when they were last visible, and are found again by motion and pointer. Prompted ones of
    no class, which no network finds, are looked for with their last mask in the first frame. Tracks end that were not
    yet confirmed, that had been hidden for longer than the life cycle allows, and all of a propagator that knows
    things by their last mask alone. The time in which no node ran is no hiding, for nobody looked: it only lets things
    have got further away.

    Args:
        stamp_ns: now, on the clock of the state's stamps [ns].
    """
    life = propagator.life
    life.next_id = state.next_id
    fits = state.mask_size == propagator.mask_size
    for memory in state.tracks:
        course = _ahead(memory, stamp_ns)
        known = course or Course(memory.place, memory.velocity, memory.sightings)
        track = _track(memory, known, stamp_ns, memory.down_ns + max(0, stamp_ns - state.stamp_ns))
        life.tracks.append(track)
        hidden_ns = state.stamp_ns - memory.hidden_ns - memory.down_ns
        if memory.state is TrackState.TENTATIVE:
            life.end(track, "not confirmed before a restart", stamp_ns)
        elif not fits or isinstance(propagator, IouPropagator) or not memory.pointer:
            life.end(track, "not continued after a restart: its mask is too old", stamp_ns)
        elif hidden_ns > life.lost_for_ns and not memory.prompted:
            life.end(track, f"not seen for {hidden_ns / 1e9:.2f} s before a restart", stamp_ns)
        elif course is None:
            life.end(track, "too fast to be known again after a restart", stamp_ns)
        else:
            life.change(track, TrackState.OCCLUDED, "continued after a restart", stamp_ns)
            if memory.prompted and memory.mask:
                propagator.seed(Seed(track, _cells(memory), state.stamp_ns))
    return len(life.tracks)


def _memory(track: LiveTrack, stamp_ns: int) -> TrackMemory:
    s, carriage, score = track.segment, track.carriage, min(1.0, float(track.segment.score))
    life = (track.track_id, s.class_id, track.state, score, s.box_xyxy, track.first_ns, track.last_ns, track.hits)
    if carriage is None:
        return TrackMemory(*life, track.prompted, track.last_ns)
    course = carriage.motion.course()
    hidden_ns = stamp_ns if carriage.hidden_since_ns is None else carriage.hidden_since_ns
    return TrackMemory(
        *life,
        track.prompted,
        hidden_ns,
        min(stamp_ns, carriage.motion.stamp_ns),  # later where `restore` gave it and the frame was captured before
        course.place,
        course.velocity,
        course.hits,
        dict(carriage.votes),
        carriage.pointer.astype(np.float16).tobytes(),
        _packed(track) if track.prompted else b"",
        carriage.decided,
        min(carriage.down_ns, max(0, stamp_ns - hidden_ns)),
    )


def _ahead(memory: TrackMemory, stamp_ns: int) -> Course | None:
    """The motion as of now; None where it has led too far to be trusted.

    A thing that comes nearer at an even speed grows by 1 / (1 - t / T), T its time to contact, and moves away from the
    point that all comes from by the same factor (Lee 1976, A theory of visual control of braking).
    """
    (x, y, w, h), (vx, vy, vw, vh) = memory.place, memory.velocity
    elapsed_s = max(0, stamp_ns - memory.moved_ns) / 1e9
    left = max(NEAREST, 1 - elapsed_s * (vw + vh) / 2)
    dx, dy, grown = vx * elapsed_s / left, vy * elapsed_s / left, -float(np.log(left))
    if np.hypot(dx, dy) > FARTHEST * np.exp((w + h) / 2):
        return None
    place = (x + dx, y + dy, w + grown, h + grown)
    velocity = (vx / left**2, vy / left**2, vw / left, vh / left)
    return Course(place, velocity, memory.sightings) if _is_bounded(place, velocity) else None


def _track(memory: TrackMemory, course: Course, stamp_ns: int, down_ns: int) -> LiveTrack:
    """A track without a slot, whose mask is its box until it is seen again.

    Args:
        down_ns: since it was last visible, without a node that ran [ns].
    """
    x0, y0, x1, y1 = box = memory.box
    segment = Segment(memory.class_id, memory.score, (x1 - x0) * (y1 - y0), box)
    track = LiveTrack(
        memory.track_id, segment, np.ones((y1 - y0, x1 - x0), bool), memory.first_ns, memory.last_ns, memory.hits,
        memory.state, observed=False, quality=0.0, prompted=memory.prompted,
    )  # fmt: skip
    if memory.pointer:
        motion = BoxMotion(box, stamp_ns)
        motion.take_up(course)
        pointer = np.frombuffer(memory.pointer, np.float16).astype(np.float32)
        pointer /= max(1e-6, float(np.linalg.norm(pointer)))
        track.carriage = Carriage(
            None, motion, pointer, Counter(memory.votes),
            hidden_since_ns=memory.hidden_ns, down_ns=down_ns, decided=memory.decided,
        )  # fmt: skip
    return track


def _grid(box: Box) -> Box:
    """The cells that a box meets."""
    x0, y0, x1, y1 = box
    return x0 // CELL, y0 // CELL, -(-x1 // CELL), -(-y1 // CELL)


def _packed(track: LiveTrack) -> bytes:
    """The track's mask on the grid of cells that its box meets, eight cells a byte."""
    x0, y0, x1, y1 = track.segment.box_xyxy
    left, top, right, bottom = _grid((x0, y0, x1, y1))
    whole = np.zeros(((bottom - top) * CELL, (right - left) * CELL), np.uint8)
    np.multiply(
        track.mask, np.uint8(255), out=whole[y0 - top * CELL : y1 - top * CELL, x0 - left * CELL : x1 - left * CELL]
    )
    share = np.asarray(cv2.resize(whole, (right - left, bottom - top), interpolation=cv2.INTER_AREA))
    return np.packbits(share >= min(128, int(share.max()))).tobytes()


def _cells(memory: TrackMemory) -> NDArray[np.bool_]:
    left, top, right, bottom = _grid(memory.box)
    shape = bottom - top, right - left
    bits = np.unpackbits(np.frombuffer(memory.mask, np.uint8), count=shape[0] * shape[1])
    return bits.reshape(shape).astype(bool)


def _is_bounded(place: Four, velocity: Four) -> bool:
    bounds = [((*place[:2], *velocity[:2]), LARGEST), ((*place[2:], *velocity[2:]), LARGEST_LOG)]
    return all(abs(value) <= limit for values, limit in bounds for value in values)  # NaN is not


def _is_possible(memory: TrackMemory, state: State) -> bool:
    x0, y0, x1, y1 = memory.box
    width, height = state.mask_size
    left, top, right, bottom = _grid(memory.box)
    stamps = (memory.first_ns, memory.last_ns, memory.hidden_ns, memory.moved_ns)
    pointer = np.frombuffer(memory.pointer, np.float16) if len(memory.pointer) % 2 == 0 else np.array([np.nan])
    return (
        x0 < x1 <= width
        and y0 < y1 <= height
        and _is_bounded(memory.place, memory.velocity)
        and all(stamp <= state.stamp_ns for stamp in stamps)
        and memory.down_ns <= state.stamp_ns - memory.hidden_ns
        and bool(np.isfinite(pointer).all())
        and memory.state is not TrackState.ENDED
        and (not memory.mask or len(memory.mask) == -(-(bottom - top) * (right - left) // 8))
        and (not memory.mask or any(memory.mask))
    )
