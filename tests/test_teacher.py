from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.errors import ConfigError, ModelError  # noqa: E402
from perception.training.batches import Batch  # noqa: E402
from perception.training.config import CLASSES, LossConfig, TeacherConfig  # noqa: E402
from perception.training.networks.prediction import Prediction  # noqa: E402
from perception.training.objective import Objective, distillation_loss  # noqa: E402
from perception.training.teacher import open_teacher  # noqa: E402
from tests.training_fakes import CONFIG  # noqa: E402
from tests.training_runs import MEANING, complete_run, mixture, prediction, rows_of, trained  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_distillation_is_zero_for_a_student_who_knows_and_follows_kl_otherwise():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    assert float(distillation_loss(a, a, 2.0)) == pytest.approx(0)
    p, q = (np.exp(x.numpy() / 2) / np.exp(x.numpy() / 2).sum(1, keepdims=True) for x in (b, a))
    assert float(distillation_loss(a, b, 2.0)) == pytest.approx(4 * (p * np.log(p / q)).sum(1).mean())


def test_a_teacher_has_its_part():
    taught = torch.zeros(2, 3, 8, 8)
    objective = Objective(LossConfig(), MEANING, TeacherConfig(checkpoint="t.safetensors", weight=0.5, temperature=2.0))
    parts = objective(prediction(), Batch(torch.zeros(0), torch.zeros(2, 16, 16).long()), taught)
    expected = distillation_loss(prediction().semantic, torch.zeros(2, 3, 16, 16), 2.0)
    assert torch.allclose(parts["distillation"], 0.5 * expected)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A complete run, and the folder of its data."""
    return complete_run(tmp_path_factory.mktemp("straight"))


def test_a_network_learns_from_a_teacher(straight, tmp_path):
    teacher = straight / "run" / "best.safetensors"
    text = CONFIG + f'[teacher]\ncheckpoint = "{teacher}"\nweight = 2.0\n'
    trained(tmp_path, text=text, steps=2)
    row = rows_of(tmp_path / "run")[0]
    assert float(row["distillation"]) > 0


@torch.no_grad()
def test_several_teachers_and_their_mirror_images_teach_the_mean_of_their_probabilities(straight):
    checkpoints = tuple(str(straight / "run" / name) for name in ("best.safetensors", "last.safetensors"))
    teacher = open_teacher(TeacherConfig(checkpoint=checkpoints, mirrored=True), Path(), CLASSES)
    x = torch.rand(1, 3, 32, 64)
    looks = [n(x.flip(-1)).semantic.flip(-1) if flip else n(x).semantic for n in teacher.networks for flip in (0, 1)]
    expected = torch.stack([look.softmax(1) for look in looks]).mean(0)
    assert torch.allclose(teacher(x).softmax(1), expected, atol=1e-4)


@torch.no_grad()
def test_a_teacher_looks_at_pictures_in_several_sizes(straight):
    checkpoint = str(straight / "run" / "best.safetensors")
    teacher = open_teacher(TeacherConfig(checkpoint=checkpoint, scales=(1.0, 1.5)), Path(), CLASSES)
    x = torch.rand(1, 3, 32, 64)
    (network,) = teacher.networks
    looks = [network(x).semantic, network(resized(x, (48, 96))).semantic]
    expected = torch.stack([resized(look, (48, 96)).softmax(1) for look in looks]).mean(0)
    assert torch.allclose(teacher(x).softmax(1), expected, atol=1e-4)


def resized(x, size: tuple[int, int]):
    return torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)


TAUGHT_APART = """
[data.b]
label_set = "camvid12"
folder = "a"
taught = false
[teacher]
checkpoint = "road"
"""


def test_a_data_set_can_be_kept_from_the_teacher(tmp_path):
    batch = mixture(tmp_path, CONFIG + TAUGHT_APART).batch(0)
    assert batch.is_taught is not None
    assert batch.is_taught.tolist() == [True, True, False]
    taught = torch.rand(2, 3, 32, 48)
    objective = Objective(LossConfig(), MEANING, TeacherConfig(checkpoint="road", temperature=1.0))
    logits = torch.rand(3, 3, 32, 48)
    parts = objective(Prediction(logits), replace(batch, codes=torch.zeros(3, 32, 48).long()), taught)
    assert torch.allclose(parts["distillation"], distillation_loss(logits[:2], taught, 1.0))


def test_a_teacher_of_other_classes_is_refused(straight, tmp_path):
    text = CONFIG.replace("steps = 8", f"steps = 8\nclasses = {[*CLASSES, 'tram']}")
    with pytest.raises(ModelError, match="the teacher knows other classes"):
        trained(tmp_path, text=text + f'[teacher]\ncheckpoint = "{straight / "run" / "best.safetensors"}"\n')


def test_a_shipped_checkpoint_teaches_by_its_name(tmp_path):
    teacher = open_teacher(TeacherConfig(checkpoint="road"), tmp_path, CLASSES)
    assert teacher(torch.zeros(1, 3, 32, 64)).shape == (1, len(CLASSES), 16, 32)


def test_a_teacher_needs_a_data_set_to_look_at(tmp_path):
    with pytest.raises(ConfigError, match="every data set has taught = false"):
        trained(tmp_path, text=CONFIG + TAUGHT_APART, without=["a", "validation"])
