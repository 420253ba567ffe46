"""The thresholds of the fused propagator."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FusionRules:
    """Every threshold of the fusion."""

    birth_score: float = 0.46  # a detection below it begins no track
    covered: float = 0.85  # share of a detection within a carried mask of its class that makes it a part of that
    taken: float = 0.3  # share of a detection where things of its class are carried already, from which on it takes
    sure_birth_score: float = 0.65  # so much to begin a track: it may be several of them at once
    present: float = 0.5  # presence below it: the thing is hidden
    shrunk: float = 0.15  # of its area in the frame before; less is a remnant of a thing that got hidden
    least_cells: int = 2  # a carried mask of fewer is nothing
    slot_cells: int = 3  # a smaller thing takes no slot: it is associated only
    prompted_agreement: float = 0.6  # IoU below which a seen mask does not replace a prompted thing's carried one
    mask_agreement: float = 0.5  # the same of other things whose carried mask is expected to be good
    sure_quality: float = 0.6  # expected IoU of such a mask
    denied_ns: int = 400_000_000  # the network looks and does not see it for so long: carried no longer
    tentative_misses: int = 0  # in a row that a tentative track survives
    key_agreement: float = 0.6  # mean IoU of masks carried and seen that makes a key frame
    key_every_ns: int = 500_000_000
    pointer_share: float = 0.15  # of a pointer that one good frame replaces
    same_thing: float = 0.7  # a prompt that overlaps a track so much means that track
    most_tracks: int = 256
