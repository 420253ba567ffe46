"""Two engines above the bottom. No GPU was used: one has plans of `tests.plan_fakes`, the other is the bottom again."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from perception.build import check_launch, open_model
from perception.config import Launch
from perception.errors import DeviceError
from perception.models.panoptic import PanopticModel
from perception.serving.backoff import Backoff
from perception.serving.candidate import Candidate
from perception.serving.plan_rung import DirectRung
from perception.serving.rungs import Opened
from perception.types import Panoptic
from tests.test_plan_cache import faults  # noqa: F401  # a fixture
from tests.test_serving import WAYS, Drive, compiles, launch_of, prebuilt


def plain(launch: Launch) -> Opened:
    """As the bottom."""
    model = open_model(check_launch(launch).files, "onnxruntime", 1)
    assert isinstance(model, PanopticModel)
    model.wants_features = True
    return Opened("lesser", model)


class Losing:
    """A model that fails once it is told to."""

    def __init__(self, opened: Opened) -> None:
        self._model, self.mask_size = opened.model, opened.model.mask_size
        self.is_lost = self.is_closed = False

    def __call__(self, image: np.ndarray) -> Panoptic:
        if self.is_lost:
            raise DeviceError("device lost")
        return self._model(image)

    def features(self, image: np.ndarray) -> None: ...

    def close(self) -> None:
        self.is_closed = True


def test_while_one_engine_is_built_another_is_closed_and_tried_again(tmp_path: Path, faults: Path) -> None:  # noqa: F811
    (faults / "compile").write_text("slow")
    launch, opened = launch_of(tmp_path), list[Losing]()

    def lesser() -> Opened:
        opened.append(Losing(plain(launch)))
        return Opened("lesser", opened[-1])

    with closing(Drive(launch)) as drive:
        drive.serving.promoter.candidates.append(Candidate(DirectRung("lesser", lesser), Backoff(0.05, 0.2)))
        drive.step_until(lambda: drive.serving.engine == "lesser")
        drive.step_until(lambda: drive.row().done == 5)
        opened[0].is_lost = True
        assert drive.step().validity == "degraded"
        drive.step_until(lambda: drive.serving.engine == "lesser")
        drive.step_until(lambda: opened[0].is_closed)
        assert (drive.step().validity, drive.row().state, compiles(faults)) == ("observed", "building", 1)
        (faults / "compile").write_text("")
        drive.step_until(drive.serves_plan)
        drive.step_until(lambda: opened[1].is_closed)
        assert drive.step().validity == "observed"


def test_an_engine_asked_for_by_name_is_missed_while_a_lesser_one_serves(tmp_path: Path, faults: Path) -> None:  # noqa: F811
    prebuilt(tmp_path)
    (faults / "open").write_text("oom")
    launch = launch_of(tmp_path)
    launch = msgspec.structs.replace(launch, model=msgspec.structs.replace(launch.model, engine="tensorrt"))

    with closing(Drive(launch, dataclasses.replace(WAYS, backoff_s=(60.0, 60.0)))) as drive:
        rung = DirectRung("lesser", lambda: plain(launch))
        drive.serving.promoter.candidates.append(Candidate(rung, Backoff(), is_wanted=True))
        drive.step_until(lambda: drive.serving.engine == "lesser")
        assert drive.step().validity == "degraded"
        assert "out of memory" in drive.step().reason
