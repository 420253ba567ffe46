"""What the conformance gate lets pass, and what it refuses. No GPU was used: what the reference says is altered."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.build import open_model
from perception.engines import open_engine
from perception.engines.child_build import Cancelled
from perception.looks import Looks
from perception.models.card import find
from perception.models.panoptic import PanopticModel
from perception.serving.comparison import Comparison
from perception.serving.gate import Answers, answers_of, judge
from perception.serving.golden import SIZE, golden_frames
from perception.serving.report import IN_FLIGHT, Report
from perception.serving.rungs import FEW, Opened
from perception.serving.samples import seeing
from perception.types import Features, Panoptic, Segment

FILES = find("road")
CLASSES = FILES.card.class_table().names
Change = Callable[[Panoptic], Panoptic]


def untouched(seen: Panoptic) -> Panoptic:
    return seen


class Told:
    """Says of golden frames what the reference said of them, after a change."""

    mask_size: tuple[int, int] = (640, 352)

    def __init__(self, seen: list[Panoptic], change: Change, encoded: list[Features]) -> None:
        self._seen = {id(frame): change(one) for frame, one in zip(golden_frames(SIZE), seen, strict=True)}
        self._encoded = {id(frame): one for frame, one in zip(golden_frames(SIZE), encoded, strict=False)}

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        return self._seen[id(image)]

    def features(self, image: NDArray[np.uint8]) -> Features | None:
        return self._encoded.get(id(image))

    def close(self) -> None: ...


class Changed:
    """The propagator's engine, whose outputs are replaced by one number."""

    name = "changed"

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self._engine, self._numbers = open_engine(FILES.propagator, "onnxruntime", 1), numbers  # type: ignore[arg-type]
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        out = self._engine(arrays)
        return out | {name: np.full_like(out[name], number) for name, number in self._numbers.items()}

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def reference() -> Answers:
    model = open_model(FILES, "onnxruntime", 1)
    assert isinstance(model, PanopticModel)
    assert FILES.encoder
    model.wants_features = True
    model.open_encoder(open_engine(FILES.encoder, "onnxruntime", 1))
    return answers_of(Opened("reference", model, Changed({})), SIZE)


def judged(
    reference: Answers,
    change: Change = untouched,
    numbers: Mapping[str, float] | None = None,
    encoded: list[Features] | None = None,
) -> Report:
    model = Told(reference.seen, change, reference.encoded if encoded is None else encoded)
    answers = answers_of(Opened("candidate", model, Changed(numbers or {})), SIZE, reference)
    return judge(answers, reference, CLASSES, "int8")  # the widest limits


def with_segments(**more) -> Change:
    return lambda seen: dataclasses.replace(
        seen, segments=tuple(dataclasses.replace(segment, **more) for segment in seen.segments)
    )


def looking(times: float, turned: int = 0) -> Change:
    """As the features say, or turned from there."""

    def change(seen: Panoptic) -> Panoptic:
        assert seen.features
        looks = Looks(seen.features).of(seen.id_map[2::4, 2::4].astype(np.int64), len(seen.segments))
        return dataclasses.replace(seen, looks=np.roll(looks, turned, axis=1) * np.float32(times))

    return change


def sure(number: int) -> Change:
    def change(seen: Panoptic) -> Panoptic:
        assert seen.confidence is not None
        return dataclasses.replace(seen, confidence=np.full_like(seen.confidence, number))

    return change


def test_what_the_reference_says_passes(reference: Answers) -> None:
    report = judged(reference, looking(1.0))
    assert (report.passed, report.failures, report.carried) == (True, (), 1.0)
    assert report.off == {"score": 0, "confidence": 0, "presence": 0, "quality": 0}
    assert report.cosine["looks"] == pytest.approx(1)
    assert report.cosine["encoder's keys"] > 0.999


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (with_segments(score=0.0), "score is off by"),
        (with_segments(score=float("nan")), "has score nan"),
        (with_segments(box_xyxy=(0, 0, 1, 1)), "has the box"),
        (with_segments(area_px=7), "has 7 px"),
        (with_segments(class_id=99), "class 99"),
        (lambda seen: dataclasses.replace(seen, segments=seen.segments[:-1]), "its id map tells of"),
        (sure(0), "confidence is off by"),
        (looking(0.0), "cosine of looks"),
        (looking(1.0, turned=7), "cosine of looks"),
        (looking(float("nan")), "looks of"),
    ],
)
def test_things_that_are_not_those_of_the_reference_are_refused(reference: Answers, change: Change, why: str) -> None:
    report = judged(reference, change)
    assert not report.passed
    assert why in "; ".join(report.failures)


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ({"presence": 0.0}, "presence is off by"),
        ({"quality": 0.0}, "quality is off by"),
        ({"presence": np.nan}, "propagator's presence hold what is no number"),
        ({"quality": np.nan}, "propagator's quality hold what is no number"),
        ({"next_pointers": np.nan}, "propagator's next_pointers hold what is no number"),
        ({"probabilities": 0.0}, "IoU of carried masks"),
    ],
)
def test_a_propagator_that_says_otherwise_is_refused(
    reference: Answers, numbers: Mapping[str, float], why: str
) -> None:
    report = judged(reference, numbers=numbers)
    assert not report.passed
    assert why in "; ".join(report.failures)


@pytest.mark.parametrize("number", [np.nan, 0.0])
def test_an_encoder_that_says_otherwise_is_refused(reference: Answers, number: float) -> None:
    broken = [dataclasses.replace(f, fine4=np.full_like(f.fine4, number)) for f in reference.encoded]
    report = judged(reference, encoded=broken)
    assert not report.passed
    assert "encoder's fine4" in "; ".join(report.failures)


def test_calls_of_every_kind_are_timed_often_enough_to_be_known(reference: Answers) -> None:
    assert {kind: len(times) >= FEW for kind, times in reference.times_s.items()} == {
        "network": True,
        "encoder": True,
        "carry": True,
    }


def test_the_golden_frames_end_early_where_the_node_does(reference: Answers) -> None:
    model, asked = Told(reference.seen, untouched, reference.encoded), itertools.count()
    with pytest.raises(Cancelled):
        answers_of(Opened("candidate", model, Changed({})), SIZE, reference, lambda: next(asked) == 15)
    assert next(asked) == 16  # among the propagator's calls


# Things as thin as a pole


def thin(columns: slice, features: Features) -> Panoptic:
    """One thing of a few columns, as its engine looks at it, and one that is large."""
    ids = np.zeros((64, 128), np.uint16)
    ids[10:34, columns], ids[20:40, 40:50] = 1, 2
    box = (columns.start, 10, columns.stop, 34)
    segments = (Segment(1, 0.9, 24 * (columns.stop - columns.start), box), Segment(1, 0.9, 200, (40, 20, 50, 40)))
    looks = Looks(features).of(ids[2::4, 2::4].astype(np.int64), 2)
    return Panoptic((ids > 0).astype(np.uint8), ids, segments, features, None, looks)


NARROW, WIDE = slice(11, 14), slice(10, 14)  # looks are taken at columns 10 and 14


@pytest.mark.parametrize(("wanted", "got"), [(WIDE, NARROW), (NARROW, WIDE)])
def test_a_thing_that_one_engine_has_no_cell_of_has_no_look_to_compare(wanted: slice, got: slice) -> None:
    draw, shapes = np.random.default_rng(0), ((8, 4, 8), (8, 4, 8), (8, 8, 16), (8, 16, 32))
    features = Features(*(draw.normal(size=shape).astype(np.float32) for shape in shapes))
    comparison = Comparison(("road", "person"))
    comparison.add(thin(wanted, features), thin(got, features))
    assert comparison.found == 1
    assert comparison.cosine()["looks"] == pytest.approx(1)


# Frames in flight that show nothing

NIGHT = np.full((*SIZE[::-1], 3), 2, np.uint8)


def in_flight(reference: Answers, image: NDArray[np.uint8], change: Change) -> list[str]:
    comparison = Comparison(CLASSES)
    told = Shown(reference.seen[0])
    seeing(image, change(reference.seen[0]))(Opened("reference", told), comparison)
    return [*comparison.failures(IN_FLIGHT)]


class Shown(Told):
    def __init__(self, seen: Panoptic) -> None:
        self._one = seen

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        return self._one


def other_labels(seen: Panoptic) -> Panoptic:
    return dataclasses.replace(seen, labels=np.full_like(seen.labels, 0))


def other_features(seen: Panoptic) -> Panoptic:
    assert seen.features
    return dataclasses.replace(seen, features=dataclasses.replace(seen.features, keys=-seen.features.keys))


def test_what_engines_make_of_a_picture_of_nothing_is_each_ones_own(reference: Answers) -> None:
    assert "labels are equal" in in_flight(reference, golden_frames(SIZE)[0], other_labels)[0]
    assert in_flight(reference, NIGHT, other_labels) == []
    assert "cosine of keys" in in_flight(reference, NIGHT, other_features)[0]
    assert "class 99" in in_flight(reference, NIGHT, with_segments(class_id=99))[0]
