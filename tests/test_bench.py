from __future__ import annotations

import io
import json
import os

import pytest
from rich.console import Console

from perception.bench.camera import camera_source, load_pictures
from perception.bench.figures import Figures, conditions
from perception.bench.parts import bench_node, bench_wire
from perception.bench.process import usage
from perception.bench.settings import BenchSettings
from perception.errors import PerceptionError
from perception.frame_cost import FrameCost
from perception.stopwatch import Stopwatch, percentile
from tests.fakes import tiny_model


@pytest.mark.parametrize(("q", "value"), [(0, 1), (50, 3), (99, 5), (100, 5)])
def test_percentile_is_a_value_that_was_measured(q, value):
    assert percentile([5, 1, 4, 2, 3], q) == value


def test_a_stopwatch_keeps_the_last_durations():
    watch = Stopwatch(kept=2)
    for ms in (1, 2, 3):
        watch.add("a", ms)
    assert watch.stages() == {"a": [2, 3]}


def test_figures_are_written_with_their_conditions(tmp_path):
    figures = Figures(conditions(source="test"))
    figures.add_times("stages", "network", [1.0, 2.0, 3.0])
    figures.write(tmp_path / "f.json")
    read = json.loads((tmp_path / "f.json").read_text())
    assert read["conditions"]["source"] == "test"
    assert read["stages"]["network"] == {"p50_ms": 2.0, "p99_ms": 3.0, "n": 3}


def test_figures_are_shown_with_their_conditions():
    figures = Figures({"machine": "two cores"})
    figures.add("node", "run", fps=30.0)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(figures.shown())
    text = console.export_text()
    assert "two cores" in text
    assert "30" in text


def test_the_bench_camera_keeps_its_rate(picture_drive):
    pictures, size = load_pictures(str(picture_drive))
    source = camera_source(pictures, 100.0, Stopwatch())
    stamps = []
    for frame in source:
        stamps.append((frame.seq, frame.stamp_ns))
        if len(stamps) == 10:
            source.close()
    assert size == (64, 32)
    assert all(stamp - stamps[0][1] >= (i - 1) * 10_000_000 for i, (_, stamp) in enumerate(stamps))


def test_the_node_part_reports_stages_drops_and_share(tmp_path, picture_drive):
    model = tiny_model(tmp_path, form="labels")
    figures = Figures()
    bench_node(BenchSettings(str(picture_drive), 1.0, str(model), "onnxruntime", 1, 50.0), figures)
    assert figures.parts["node"]["run"]["frames"] >= 2
    assert {"decode", "resize", "network", "grouping", "association", "encode", "send", "capture to sent"} <= set(
        figures.parts["stages"]
    )
    assert 0 < figures.parts["share"]["all but the network's call"]["percent"] < 100


def test_the_wire_part_checks_what_it_measures():
    figures = Figures()
    bench_wire(figures, n=3)
    assert all(row["n"] == 3 for row in figures.parts["wire 640x360"].values())


def test_usage_of_this_process_and_of_none():
    assert usage(os.getpid()).rss_mb > 1
    with pytest.raises(PerceptionError, match="is gone"):
        usage(2**22 + 1)


def test_the_rate_that_is_expected_of_a_frame_s_parts():
    cost = FrameCost("", "memory", look_ms=20, skip_ms=10, follow_ms=8)
    assert cost.rate_hz() == pytest.approx(1000 / (20 + 8 + 2))
    assert cost.rate_hz(network_every=2) == pytest.approx(2000 / (20 + 10 + 2 * (8 + 2)))
    assert cost.rate_hz(follows=False) == pytest.approx(1000 / (20 + 2))
