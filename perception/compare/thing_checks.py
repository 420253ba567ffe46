"""Checks of things, classes and times: swaps, vanished and appeared things, id switches, latency."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from perception.compare.areas import Swap
from perception.compare.findings import Check, Finding, Place
from perception.compare.identity import Stay, Switch
from perception.compare.latency import STAGES, TOTAL
from perception.compare.measures import Measures
from perception.compare.series import per_1000
from perception.compare.tolerance import Tolerance

MOST_NAMED = 20
"""Differences of a kind that get a line each; the rest share one."""


def swap_checks(m: Measures, tolerance: Tolerance) -> Iterator[Check]:
    """One for each two classes of which one took the other's place, things and pixels together."""
    sources = [("things", m.identities.swaps), *((topic, areas.swaps) for topic, areas in sorted(m.areas.items()))]
    gathered: dict[tuple[str, str], list[tuple[str, Swap]]] = {}
    for source, swaps in sources:
        for names, swap in swaps.items():
            gathered.setdefault(names, []).append((source, swap))
    for names, told in sorted(gathered.items()):
        finding = _swap(m, names, told, tolerance)
        yield Check("class swap", f"{names[0]} -> {names[1]}", (finding,) if finding else ())
    if not gathered:
        yield Check("class swap", "all classes")


def _swap(m: Measures, names: tuple[str, str], told: list[tuple[str, Swap]], tolerance: Tolerance) -> Finding | None:
    pixels: dict[int, int] = {}
    share, things = 0.0, 0
    for source, swap in told:
        for frame, count, part in zip(swap.frames, swap.pixels, swap.shares, strict=True):
            if count >= max(tolerance.swap_px, 1) and part >= tolerance.swap_share:
                pixels[frame] = max(pixels.get(frame, 0), count)
                things += source == "things"
                share = share if source == "things" else max(share, part)
    rate = per_1000(len(pixels), len(m.frames))
    if not pixels or rate <= tolerance.swaps:
        return None
    worst = max(pixels, key=lambda k: pixels[k])
    parts = [f"up to {pixels[worst]} px"]
    parts += [f"{100 * share:.0f} % of A's {names[0]}"] if share else []
    parts += [f"{things} things in all"] if things else []
    text = f"class swapped: {names[0]} in A is {names[1]} in B in {{where}}: {', '.join(parts)}"
    subject = f"{names[0]} -> {names[1]}"
    return Place(m).finding("class swap", subject, text, sorted(pixels), rate, tolerance.swaps, worst)


def identity_checks(m: Measures, tolerance: Tolerance) -> Iterator[Check]:
    ids = m.identities
    rate = per_1000(ids.switch_count, len(m.frames))
    found = [_switch(m, s, rate, tolerance) for s in ids.switches] if rate > tolerance.id_switches else []
    yield Check("id switch", "all things", _named(found, ids.switch_count))
    for side, kind, limit in ((0, "vanished", tolerance.vanished), (1, "appeared", tolerance.appeared)):
        stays = sorted(ids.stayed(side, tolerance.segment_px), key=lambda stay: -sum(stay.areas))
        share = sum(len(stay.frames) for stay in stays) / max(1, ids.things[side])
        lost = [_stay(m, kind, stay, share, limit) for stay in stays] if share > limit else []
        yield Check(kind, "all things", _named(lost, len(lost)))


def _switch(m: Measures, switch: Switch, rate: float, tolerance: Tolerance) -> Finding:
    if switch.is_join:
        what = f"{switch.class_name} #{switch.a_id} of A is #{switch.b_id} in B, which was A's #{switch.before} before"
    else:
        what = f"{switch.class_name} #{switch.a_id} of A was #{switch.before} in B and is #{switch.b_id}"
    place, subject = Place(m), f"{switch.class_name} #{switch.a_id}"
    limit = tolerance.id_switches
    rates = f"; {rate:.1f} in 1000 frames, tolerated {limit:g}" if limit else ""
    text = f"id switch: {what}, from frame {place.at(switch.frame)} on{rates}"
    return place.finding("id switch", subject, text, [switch.frame], rate, limit)


def _stay(m: Measures, kind: str, stay: Stay, share: float, limit: float) -> Finding:
    has, lacks = ("A", "B") if stay.side == 0 else ("B", "A")
    name = f"{stay.class_name} #{stay.track_id}" if stay.track_id >= 0 else f"further things of class {stay.class_name}"
    worst = stay.frames[int(np.argmax(stay.areas))]
    text = f"{kind}: {name} of {has} has no counterpart in {lacks} in {{where}}, up to {max(stay.areas)} px"
    text += f"; {100 * share:.1f} % of {has}'s things, tolerated {100 * limit:g} %" if limit else ""
    return Place(m).finding(kind, name, text, sorted(set(stay.frames)), share, limit, worst)


def _named(found: list[Finding], count: int) -> tuple[Finding, ...]:
    if count <= MOST_NAMED:
        return tuple(found)
    first = found[0]
    text = f"{first.kind}: {count - MOST_NAMED} more of the kind, {count} in all"
    return (*found[:MOST_NAMED], Finding(first.kind, "others", text, first.value, first.threshold))


def latency_checks(m: Measures, tolerance: Tolerance, untimed: str) -> Iterator[Check]:
    before, after = (timing.quantiles() for timing in m.timing)
    if TOTAL not in before or TOTAL not in after:
        untimed = untimed or f"{'A' if TOTAL not in before else 'B'} holds no decisions with times"
    for k, name, limit in ((0, "p50", tolerance.latency_p50_ms), (2, "p99", tolerance.latency_p99_ms)):
        if untimed:
            yield Check("latency", name, skipped=untimed)
            continue
        shift = after[TOTAL][k] - before[TOTAL][k]
        if shift <= limit:
            yield Check("latency", name)
            continue
        stages = {stage: after[stage][k] - before[stage][k] for stage in STAGES if stage in before and stage in after}
        stage = max(stages, key=lambda s: stages[s])
        begin = "capture" if m.timing[0].has_capture_clock else "arrival"
        text = (
            f"latency: {begin} to sent, {name}, {before[TOTAL][k]:.1f} ms in A and {after[TOTAL][k]:.1f} ms in B: "
            f"{shift:+.1f} ms, tolerated {limit:+g} ms; most of it in {stage} ({stages[stage]:+.1f} ms)"
        )
        yield Check("latency", name, (Finding("latency", name, text, shift, limit),))
