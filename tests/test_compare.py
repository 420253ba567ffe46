"""Two recordings held against each other: what is the same, what is found, and how it is said."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.compare import Comparison, Options, compare
from perception.compare.areas import TopicAreas
from perception.drives.layout import Machine
from perception.evaluation.boundary import BoundaryF
from perception.sinks.messages import TopicSpec
from perception.types import Scene, Validity
from perception.wire import Header, Kind, decode, encode
from tests.compare_fakes import CLASSES, PERIOD_NS, about, car_is_truck, renamed, scene, scenes, write_result

PLACE: dict[str, Any] = {"seq": 1, "frame_seq": 1, "stamp_ns": 1}


def held(tmp_path: Path, b: list[Scene], options: Options | None = None, **more) -> Comparison:
    """The usual 30 frames against these."""
    reference = tmp_path / "a.mcap"
    if not reference.exists():
        write_result(reference, scenes(len(b)))
    return compare(reference, write_result(tmp_path / "b.mcap", b, **more), options)


def texts(comparison: Comparison, kind: str) -> list[str]:
    return [finding.text for finding in comparison.findings if finding.kind == kind]


def kinds(comparison: Comparison) -> set[str]:
    return {finding.kind for finding in comparison.findings}


def test_planted_regressions_in_300_frames_are_each_found_and_named(tmp_path):
    planted = scenes(300, car_is_truck, range(100, 105))
    planted = [renamed(11, 77)(told) if told.frame_seq >= 200 else told for told in planted]
    found = held(tmp_path, planted, Options(pictures=20), late_ms=20)
    assert texts(found, "class swap") == [
        "class swapped: car in A is truck in B in 5 frames, 100-104 (3.33-3.47 s): "
        "up to 120 px, 100 % of A's car, 5 things in all"
    ]
    assert texts(found, "id switch") == [
        "id switch: pedestrian #11 of A was #11 in B and is #77, from frame 200 (6.67 s) on"
    ]
    p50, p99 = texts(found, "latency")
    assert "p50, 33.9 ms in A and 53.9 ms in B: +20.0 ms, tolerated +10 ms" in p50
    assert "p99" in p99
    assert "network and propagator (+20.0 ms)" in p99
    assert {100, 200} <= {picture.seq for picture in found.pictures}


def test_nothing_is_found_between_identical_ones(tmp_path):
    found = held(tmp_path, scenes(300))
    assert found.is_same
    assert found.findings == ()
    assert found.tolerance.level == "bytes"
    assert found.digests[0] == found.digests[1]
    assert not [check for check in found.checks if check.skipped]


@pytest.mark.parametrize("level", ["tight", "statistical"])
def test_planted_regressions_are_found_without_the_bytes_too(tmp_path, level):
    planted = [renamed(11, 77)(told) if told.frame_seq >= 20 else told for told in scenes(30, car_is_truck, range(5))]
    found = held(tmp_path, planted, Options(level=level), late_ms=20)
    assert {"class swap", "id switch", "latency"} <= kinds(found)
    assert "bytes" not in kinds(found)


def test_a_thing_that_vanishes_is_named_with_its_frames_and_size(tmp_path):
    def without_11(told: Scene) -> Scene:
        labels, id_map = told.labels.copy(), told.id_map.copy()
        labels[id_map == 2], id_map[id_map == 2] = 0, 0
        id_map[id_map == 3] = 2
        return replace(told, labels=labels, id_map=id_map, tracks=(told.tracks[0], told.tracks[2]))

    found = held(tmp_path, scenes(30, without_11, [7, 8, 20]))
    assert texts(found, "vanished") == [
        "vanished: pedestrian #11 of A has no counterpart in B in 3 frames, 7-8 (0.23-0.27 s), 20 (0.67 s), "
        "up to 120 px"
    ]
    assert "appeared" not in kinds(found)
    reverse = compare(tmp_path / "b.mcap", tmp_path / "a.mcap")
    assert [f.subject for f in reverse.findings if f.kind == "appeared"] == ["pedestrian #11"]


def test_two_things_that_change_ids_are_two_switches_and_no_join(tmp_path):
    def crossed(told: Scene) -> Scene:
        return renamed(99, 12)(renamed(12, 11)(renamed(11, 99)(told)))

    found = held(tmp_path, scenes(30, crossed, range(15, 30)))
    assert [f.subject for f in found.findings if f.kind == "id switch"] == ["pedestrian #11", "pedestrian #12"]


def test_one_id_for_two_things_of_the_reference_is_said_so(tmp_path):
    later = [renamed(11, 40)(told) if told.frame_seq >= 15 else told for told in scenes(30)]
    write_result(tmp_path / "a.mcap", later)
    found = held(tmp_path, scenes(30))
    (line,) = texts(found, "id switch")
    assert "pedestrian #40 of A is #11 in B, which was A's #11 before" in line


def test_a_thing_that_no_mask_shows_is_followed_by_its_box(tmp_path):
    topics = (TopicSpec("road", (0,), "bits"),)
    write_result(tmp_path / "a.mcap", scenes(30), topics=topics)
    found = held(tmp_path, scenes(30, renamed(10, 50), range(12, 30)), topics=topics)
    assert [f.subject for f in found.findings if f.kind == "id switch"] == ["car #10"]


def test_another_validity_is_found(tmp_path):
    found = held(tmp_path, scenes(30, lambda told: replace(told, validity=Validity.DEGRADED), range(3, 6)))
    assert texts(found, "validity") == [
        "validity: observed in A is degraded in B in 3 frames, 3-5 (0.10-0.17 s); 100.0 in 1000, tolerated 0"
    ]


def test_dropped_frames_are_named_with_their_reason(tmp_path):
    found = held(tmp_path, scenes(30), dropped=[4, 5])
    (line,) = texts(found, "frames")
    assert line.startswith("frames missing in B: 2 of 30, namely 4-5 (dropped: a newer frame came)")
    assert found.unmatched == (2, 0)
    reverse = compare(tmp_path / "b.mcap", tmp_path / "a.mcap")
    assert any(text.startswith("frames added by B: 2") for text in texts(reverse, "frames"))


def test_decisions_that_a_replay_writes_at_its_end_are_found(tmp_path):
    found = held(tmp_path, scenes(200), dropped=[4, 5], tells_dropped_last=True)
    (line,) = texts(found, "frames")
    assert line.startswith("frames missing in B: 2 of 200, namely 4-5 (dropped: a newer frame came)")
    assert found.decided[1] == {"stepped": 198, "dropped": 2}


def test_a_topic_that_is_gone_is_found_and_a_new_one_noted(tmp_path):
    topics = (TopicSpec("panoptic", (0, 1, 2, 3), "labels"), TopicSpec("lane", (0,), "bits"))
    found = held(tmp_path, scenes(30), Options(level="tight"), topics=topics)
    assert [f.subject for f in found.findings if f.kind == "topics"] == ["instances", "road"]
    assert found.notes == ("topics that only B has, not compared: lane",)


def test_classes_are_compared_by_name_not_by_number(tmp_path):
    order = (3, 2, 1, 0)
    table = np.array([*order, *([255] * 252)], np.uint8)

    def turned(told: Scene) -> Scene:
        tracks = tuple(replace(t, class_id=order[t.class_id]) for t in told.tracks)
        return replace(told, labels=table[told.labels], tracks=tracks)

    topics = (TopicSpec("panoptic", (0, 1, 2, 3), "labels"), TopicSpec("instances", (0, 1, 2), "positions"))
    found = held(tmp_path, scenes(30, turned), Options(level="tight"), topics=topics, classes=CLASSES[::-1])
    assert kinds(found) == {"topics"}  # the road's


def test_bytes_that_differ_are_told_by_their_part(tmp_path):
    found = held(tmp_path, scenes(30), said=about(run="run-2"))
    assert kinds(found) == {"bytes"}
    assert all(text.endswith("in run") for text in texts(found, "bytes"))


def test_iou_is_that_of_hand_counted_pixels(tmp_path):
    def wider(told: Scene) -> Scene:
        labels = told.labels.copy()
        labels[20:24] = np.where(labels[20:24] == 255, 0, labels[20:24])
        return replace(told, labels=labels)

    found = held(tmp_path, scenes(10, wider, [3]), Options(level="tight"))
    (row,) = [row for row in found.classes if (row.topic, row.name) == ("panoptic", "road")]
    frame = scene(3)
    road = int((frame.labels == 0).sum())
    wide = int((wider(frame).labels == 0).sum())
    assert row.least_frame == 3
    assert row.least_iou == pytest.approx(road / wide)
    assert row.mean_iou == pytest.approx((9 + road / wide) / 10)
    total = sum(int((scene(i).labels == 0).sum()) for i in range(10))
    assert row.pooled_iou == pytest.approx(total / (total + wide - road))


def test_frames_of_two_clocks_match_by_their_numbers(tmp_path):
    later = [replace(told, stamp_ns=told.stamp_ns + 5 * PERIOD_NS) for told in scenes(30)]
    found = held(
        tmp_path, later, Options(level="tight"), said=about(recording="rec-2", clock="boot-2", source="/dev/v1")
    )
    assert (found.matching.by, found.frames) == ("frame", 30)
    assert found.is_same


def test_frames_of_one_drive_match_by_their_stamps(tmp_path):
    renumbered = [replace(told, frame_seq=told.frame_seq + 100) for told in scenes(30)]
    found = held(tmp_path, renumbered, Options(level="tight"), said=about(recording="r", drive="rec-1", mode="exact"))
    assert (found.matching.by, found.frames) == ("stamp", 30)
    assert found.is_same


def test_latency_of_a_replay_is_told_but_not_judged(tmp_path):
    found = held(tmp_path, scenes(30), said=about(mode="exact", recording="r", drive="rec-1"), late_ms=20)
    (why,) = {check.skipped for check in found.checks if check.kind == "latency"}
    assert why == "B is an exact replay: its times are those of the replay, not of a drive"
    assert found.is_same
    assert found.latency[0].b[0] - found.latency[0].a[0] == pytest.approx(20, abs=0.01)


def test_health_tells_its_stages(tmp_path):
    found = held(tmp_path, scenes(30), late_ms=5)
    (row,) = [row for row in found.latency if row.source == "health"]
    assert (row.stage, row.a[0], row.b[0]) == ("network", 24.0, 29.0)


def test_latency_limit_is_the_callers(tmp_path):
    assert held(tmp_path, scenes(30), late_ms=8).is_same
    strict = compare(tmp_path / "a.mcap", tmp_path / "b.mcap", Options(latency_ms=5))
    assert kinds(strict) == {"latency"}


@pytest.mark.parametrize(
    ("more", "level", "why"),
    [
        ({}, "bytes", "same model, engine"),
        ({"engine": "onnxruntime"}, "statistical", "other engines: openvino and onnxruntime"),
        ({"model_id": "ffff"}, "statistical", "other models"),
        ({"machine": Machine(cpu="Z80")}, "statistical", "other processors: unknown and Z80"),
        ({"machine": Machine(versions={"numpy": "9"})}, "tight", "numpy - and 9"),
        ({"launch": '{"topics": ["road"]}'}, "tight", "other settings"),
        ({"launch": '{"publish": {"encoding": "lz4"}}'}, "tight", "other settings"),
        ({"launch": '{"publish": {"insecure": true}, "model": {"path": "x"}}'}, "bytes", "same model"),
        ({"launch": "[1"}, "tight", "other settings"),
        ({"launch": '{"model": 3}'}, "tight", "other settings"),
        ({"mode": "re-enacted", "drive": "rec-1"}, "statistical", "does not give back exactly"),
        ({"mode": "exact", "drive": "rec-1"}, "statistical", "live and exact"),
    ],
)
def test_auto_takes_the_strictest_level_that_two_runs_can_keep(tmp_path, more, level, why):
    found = held(tmp_path, scenes(2), said=about(**more))
    assert found.tolerance.level == level
    assert why in found.why


def test_a_reenacted_run_of_exact_images_has_to_be_the_same_bytes(tmp_path):
    write_result(tmp_path / "a.mcap", scenes(2), about(is_exact=True))
    found = held(tmp_path, scenes(2), said=about(mode="re-enacted", recording="r", drive="rec-1"))
    assert found.tolerance.level == "bytes"
    assert found.is_same


def test_a_comparison_survives_a_process_pool(tmp_path):
    found = held(tmp_path, scenes(12, car_is_truck, [3]), Options(pictures=2))
    copy = pickle.loads(pickle.dumps(found))
    assert copy.to_json() == found.to_json()


def test_small_differences_pass_the_tight_level(tmp_path):
    def one_pixel(told: Scene) -> Scene:
        labels = told.labels.copy()
        labels[0, 0] = 0
        return replace(told, labels=labels)

    assert held(tmp_path, scenes(30, one_pixel), Options(level="tight")).is_same
    assert not compare(tmp_path / "a.mcap", tmp_path / "b.mcap", Options(level="bytes")).is_same


@given(st.integers(1, 2**32 - 1), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_maps_are_counted_as_by_hand(seed, noise):
    draw = np.random.default_rng(seed)
    one = np.where(draw.random((20, 30)) < 0.1, 255, draw.integers(0, 3, (20, 30))).astype(np.uint8)
    other = np.where(draw.random(one.shape) < noise / 4, draw.integers(0, 3, one.shape), one).astype(np.uint8)
    names = ("road", "car", "truck")
    areas, borders = TopicAreas("x"), BoundaryF(5)
    messages = [decode(encode("c/x", Header("r", "c", classes=names), Kind.LABELS, m, **PLACE)) for m in (one, other)]
    assert areas.add(0, messages[0], messages[1]) == (one != other).sum()
    for name, value in areas.pooled_iou().items():
        k = 255 if name == "void" else names.index(name)
        assert value == pytest.approx(((one == k) & (other == k)).sum() / ((one == k) | (other == k)).sum())
    shifted = [np.where(m == 255, 0, m + 1).astype(np.uint8) for m in (one, other)]
    borders.add(shifted[0], shifted[1])
    expected = borders.f()[:, :4]
    found = areas.boundary_f()
    for i, name in enumerate(("void", *names)):
        assert found.get(name, dict.fromkeys((1, 2, 4), np.nan)) == pytest.approx(
            dict(zip((1, 2, 4), expected[:, i], strict=True)), nan_ok=True
        )


def test_a_map_against_itself_meets_all_its_borders():
    labels = np.random.default_rng(0).integers(0, 3, (20, 30)).astype(np.uint8)
    whole, short = BoundaryF(3), BoundaryF(3)
    whole.add(labels, labels.copy())
    short.add_same(labels)
    assert (whole.counted == short.counted).all()
    assert (whole.matched == short.matched).all()
