"""`perception build` and `perception selftest`. No GPU was used: the compiler is `tests.plan_fakes`."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from perception.cli.build import loss_table
from perception.config import Launch
from perception.engines import chosen, measured
from perception.errors import ConfigError, ModelError
from perception.models.precision_loss import PrecisionLoss
from perception.opencv import cv2
from perception.prepare import Wishes, prepare, selftest
from perception.serving.rungs import Refused
from tests.plan_fakes import HeaderCompiler
from tests.test_panoptic import tiny_panoptic
from tests.test_plan_cache import faults  # noqa: F401  # a fixture
from tests.test_serving import WAYS, Drive, compiles, launch_of

WISHES = Wishes((64, 32))


def quiet(what: str, done: int, of: int) -> None: ...


def test_a_model_is_built_once_and_reported(tmp_path: Path, faults: Path) -> None:  # noqa: F811
    launch, told = launch_of(tmp_path), []
    done = prepare(launch, WISHES, lambda *news: told.append(news), WAYS)
    assert ("network: tactics", 5, 10) in told
    assert done.report.passed
    ((folder, manifest),) = done.plans.values()
    assert (folder / "plan").stat().st_size == manifest.size
    prepare(launch, WISHES, quiet, WAYS)
    assert compiles(faults) == 1
    prepare(launch, dataclasses.replace(WISHES, again=True), quiet, WAYS)
    assert compiles(faults) == 2


def test_what_does_not_agree_is_refused(tmp_path: Path, faults: Path) -> None:  # noqa: F811
    (faults / "compile").write_text("wrong")
    with pytest.raises(ModelError, match="labels are equal"):
        prepare(launch_of(tmp_path), WISHES, quiet, WAYS)


def test_calibration_is_of_some_precisions_only(tmp_path: Path, faults: Path) -> None:  # noqa: F811
    wishes = dataclasses.replace(WISHES, calibrate=tmp_path)
    with pytest.raises(ConfigError, match="fp16 needs no pictures"):
        prepare(launch_of(tmp_path), wishes, quiet, WAYS)


def labelled(folder: Path) -> Path:
    """One picture, green and blue, whose truth is what the tiny network says of it."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    image, labels = np.zeros((32, 64, 3), np.uint8), np.ones((32, 64), np.uint8)
    image[..., 1] = 200
    image[8:24, 8:24], labels[8:24, 8:24] = (200, 0, 0), 2  # OpenCV writes BGR
    cv2.imwrite(str(folder / "images" / "a.png"), image)
    cv2.imwrite(str(folder / "labels" / "a.png"), labels)
    return folder


def test_the_loss_by_class_is_measured_on_labels_where_there_are_some(tmp_path: Path, faults: Path) -> None:  # noqa: F811
    wishes = dataclasses.replace(WISHES, labelled=labelled(tmp_path / "data"))
    losses: list[PrecisionLoss] = []
    prepare(launch_of(tmp_path), wishes, quiet, WAYS, losses.append)
    (loss,) = losses
    assert loss.has_truth
    assert [(name, points) for name, _, _, points in loss.rows()] == [("road", 0.0), ("person", 0.0)]


def test_else_it_is_measured_against_float32(tmp_path: Path, faults: Path) -> None:  # noqa: F811
    losses: list[PrecisionLoss] = []
    prepare(launch_of(tmp_path), WISHES, quiet, WAYS, losses.append)
    (loss,) = losses
    assert (loss.has_truth, loss.frames) == (False, 6)  # the golden ones
    assert loss.rows()
    assert "IoU with fp32" in str(loss_table(loss).columns[0].header)


def test_what_loses_too_much_is_refused_for_the_node_too(tmp_path: Path, faults: Path) -> None:  # noqa: F811
    launch, wishes = launch_of(tmp_path), dataclasses.replace(WISHES, max_loss=-1.0)
    losses: list[PrecisionLoss] = []
    with pytest.raises(ModelError, match="at most -1"):
        prepare(launch, wishes, quiet, WAYS, losses.append)
    assert [loss.mean for loss in losses] == [pytest.approx(0, abs=0.01)]
    assert not [path for path in (tmp_path / "plans" / "plans").iterdir() if path.is_dir()]
    with closing(Drive(launch)) as drive:
        drive.step_until(lambda: drive.row().state == "refused")
        assert "loses 0.00 points" in drive.row().reason
        assert drive.step().validity == "observed"
    for same in (wishes, WISHES):  # who asks for no limit has not looked at the loss
        with pytest.raises(Refused, match=r"loses 0\.00 points"):
            prepare(launch, same, quiet, WAYS)
    assert compiles(faults) == 1
    prepare(launch, dataclasses.replace(wishes, max_loss=1.0), quiet, WAYS)
    assert compiles(faults) == 2
    with pytest.raises(ModelError, match="at most -1"):
        prepare(launch, wishes, quiet, WAYS)
    prepare(launch, dataclasses.replace(WISHES, again=True), quiet, WAYS)
    with closing(Drive(launch)) as drive:
        drive.step_until(drive.serves_plan)


@pytest.mark.parametrize("more", [{"max_loss": -0.5}, {"again": True}])
def test_what_was_refused_stays_so_where_another_build_is_broken_off(tmp_path: Path, faults: Path, more: dict) -> None:  # noqa: F811
    launch = launch_of(tmp_path)
    with pytest.raises(ModelError, match="at most -1"):
        prepare(launch, dataclasses.replace(WISHES, max_loss=-1.0), quiet, WAYS)

    def interrupted(what: str, done: int, of: int) -> None:
        if what not in ("begins", "waiting") and (faults / "log").read_text().count("open") > 1:
            raise KeyboardInterrupt  # while the loss is measured

    with pytest.raises(KeyboardInterrupt):
        prepare(launch, dataclasses.replace(WISHES, **more), interrupted, WAYS)
    with closing(Drive(launch)) as drive:
        drive.step_until(lambda: drive.row().state == "refused")
        assert "loses 0.00 points" in drive.row().reason


def test_a_precision_that_is_not_there_is_said_before_the_pictures_are_read(tmp_path: Path, faults: Path) -> None:  # noqa: F811
    (faults / "check").write_text("this GPU has no int8")
    launch = launch_of(tmp_path)
    launch = msgspec.structs.replace(launch, model=msgspec.structs.replace(launch.model, precision="int8"))
    with pytest.raises(ModelError, match="this GPU has no int8"):
        prepare(launch, dataclasses.replace(WISHES, calibrate=tmp_path), quiet, WAYS)


def test_a_lowered_model_is_calibrated_built_and_held_against_float32(
    tmp_path: Path,
    faults: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perception.build.serving.open_tensorrt", HeaderCompiler)
    monkeypatch.setattr("perception.build.serving.has_cuda_provider", lambda: False)
    ways = dataclasses.replace(WAYS, compiler=None)
    launch = launch_of(tmp_path, network_every=2)
    launch = msgspec.structs.replace(launch, model=msgspec.structs.replace(launch.model, precision="int8"))
    with pytest.raises(ModelError, match=r"int8 is calibrated .* --network-every 2 .* --calibrate FOLDER"):
        prepare(launch, WISHES, quiet, ways)
    pictures = labelled(tmp_path / "data") / "images"
    losses: list[PrecisionLoss] = []
    done = prepare(launch, dataclasses.replace(WISHES, calibrate=pictures), quiet, ways, losses.append)
    assert {*done.plans} == {"network", "encoder"}
    assert [(loss.frames, loss.has_truth) for loss in losses] == [(1, False)]
    prepare(launch, dataclasses.replace(WISHES, again=True), quiet, ways)  # without its pictures: of the same graphs
    assert compiles(faults) == 4


def test_auto_takes_the_engine_that_was_measured_to_be_the_fastest(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    assert chosen("auto") == "openvino"
    measured.remember({"onnxruntime": 1.0, "openvino": 2.0})
    assert chosen("auto") == "onnxruntime"
    assert chosen("openvino") == "openvino"


def test_what_was_measured_on_another_machine_is_not_taken(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    path = measured.remember({"onnxruntime": 1.0})
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | {"cpu": "another"}))
    assert chosen("auto") == "openvino"
    path.write_bytes(b"{")
    assert chosen("auto") == "openvino"


def test_a_selftest_remembers_who_agrees_and_is_fast(tmp_path: Path) -> None:
    reports = selftest(str(tiny_panoptic(tmp_path)), quiet)
    assert reports
    assert all(report.passed for report in reports)
    assert measured.fastest() == min(reports, key=lambda report: report.step_ms).engine.partition("-")[0]


def test_precision_and_cache_are_of_the_launch_file(tmp_path: Path) -> None:
    assert (Launch(version=1).model.precision, Launch(version=1).model.cache) == ("fp16", "")
