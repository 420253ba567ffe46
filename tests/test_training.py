from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.engines import open_engine  # noqa: E402
from perception.errors import ConfigError, ModelError  # noqa: E402
from perception.models.card import find  # noqa: E402
from perception.models.semantic import SemanticModel  # noqa: E402
from perception.opencv import cv2  # noqa: E402
from perception.training.augment import random_crop  # noqa: E402
from perception.training.batches import Mixture  # noqa: E402
from perception.training.datasets import CLASSES, IDD_LITE, coarse_meaning, exact_meaning, image_label_folder  # noqa: E402
from perception.training.export import export, export_int8  # noqa: E402
from perception.training.losses import dice_loss, ohem_cross_entropy, set_cross_entropy  # noqa: E402
from perception.training.networks.deeplab import DeepLabV3Plus  # noqa: E402
from perception.training.networks.mobilenet import MobileNetV2, calibrate_batch_norm  # noqa: E402
from perception.training.train import Recipe, Trainer, predict  # noqa: E402


@pytest.fixture
def logits_and_target():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 4, (2, 6, 5), generator=generator)
    target[0, :2] = 255
    return logits, target


def brute_cross_entropies(logits, target) -> np.ndarray:
    values = []
    for n, y, x in np.ndindex(*target.shape):
        if target[n, y, x] != 255:
            z = logits[n, :, y, x].detach().numpy()
            values.append(np.log(np.exp(z).sum()) - z[int(target[n, y, x])])
    return np.array(values)


def test_ohem_is_the_mean_of_the_hardest_share(logits_and_target):
    values = np.sort(brute_cross_entropies(*logits_and_target))[::-1]
    expected = values[: int(len(values) / 3)].mean()
    assert float(ohem_cross_entropy(*logits_and_target).detach()) == pytest.approx(expected)


def test_set_cross_entropy_with_exact_meaning_is_cross_entropy(logits_and_target):
    logits, target = logits_and_target
    meaning = torch.eye(4, dtype=torch.bool)
    assert torch.allclose(set_cross_entropy(logits, target, meaning), ohem_cross_entropy(logits, target))


def test_set_cross_entropy_asks_only_for_the_sum(logits_and_target):
    logits, _ = logits_and_target
    meaning = torch.tensor([[True, True, False, False]])
    p = logits.softmax(1)[:, :2].sum(1).detach().numpy()
    loss = set_cross_entropy(logits, torch.zeros(2, 6, 5, dtype=torch.long), meaning, share=1.0)
    assert float(loss.detach()) == pytest.approx(-np.log(p).mean())


@pytest.mark.parametrize(
    "loss", [lambda z, t: dice_loss(z, t), lambda z, t: set_cross_entropy(z, t, torch.eye(4, dtype=torch.bool), 1.0)]
)
def test_gradients_agree_with_differences(logits_and_target, loss):
    logits, target = logits_and_target
    assert torch.autograd.gradcheck(lambda z: loss(z, target), (logits,))


def test_dice_of_a_sure_and_right_prediction_is_zero():
    target = torch.tensor([[[0, 1], [1, 255]]])
    sure = torch.nn.functional.one_hot(target.clamp(max=1), 2).permute(0, 3, 1, 2) * 100.0
    assert float(dice_loss(sure, target)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    "loss", [ohem_cross_entropy, dice_loss, lambda z, t: set_cross_entropy(z, t, torch.eye(3, dtype=torch.bool))]
)
def test_an_image_without_labels_costs_nothing(loss):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((1, 4, 4), 255))
    value.backward()
    assert float(value.detach()) == 0.0
    assert logits.grad is not None
    assert float(logits.grad.abs().sum()) == 0.0


@pytest.mark.parametrize(("output_stride", "last"), [(16, 6), (32, 6), (16, 5)])
def test_logits_come_at_a_quarter_of_any_size(output_stride, last):
    net = DeepLabV3Plus(12, 32, output_stride, last).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 72, 104)).shape == (1, 12, 18, 26)


def test_batch_norm_statistics_keep_the_function():
    torch.manual_seed(0)
    net = MobileNetV2().eval()
    for _, norm in net.convolutions():
        norm.bias.data.normal_(0, 0.1)
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        before = net(x)[3]
        calibrate_batch_norm(net, x)
        after = net.eval()(x)[3]
    assert torch.allclose(before, after, atol=1e-3)


def test_every_coarse_label_can_be_something():
    meaning = coarse_meaning(IDD_LITE)
    assert meaning.shape == (7, 12)
    assert meaning.any(1).all()


def folder(root: Path, n: int = 6, size: tuple[int, int] = (64, 96)) -> Path:
    """Pictures whose left half is road and right half is car."""
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        image = rng.integers(0, 60, (*size, 3), np.uint8)
        labels = np.full(size, 3, np.uint8)
        labels[:, size[1] // 2 :] = 8
        image[:, size[1] // 2 :] += 150
        cv2.imwrite(str(root / "images" / f"{i}.png"), image)
        cv2.imwrite(str(root / "labels" / f"{i}.png"), labels)
    return root


def test_crops_keep_image_and_labels_together():
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:40, 30:50] = 255
    labels = (image[..., 0] > 0).astype(np.uint8)
    rng = np.random.default_rng(1)
    for _ in range(20):
        out, out_labels = random_crop(image, labels, (40, 40), (0.8, 1.6), rng)
        inside = out_labels != 255
        assert np.mean((out[..., 0] > 127)[inside] == out_labels[inside]) > 0.97


def test_batches_repeat_with_the_seed_and_cover_every_sample(tmp_path):
    data = image_label_folder(folder(tmp_path / "a"), "a")

    def mixture() -> Mixture:
        return Mixture({"a": data}, {"a": 2}, (32, 32), {"a": (0.8, 1.2)}, seed=3)

    assert torch.equal(mixture().batch(5).images, mixture().batch(5).images)
    assert sorted(i for step in range(3) for i in mixture()._choose(data, 2, step)) == list(range(6))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: (root / "labels" / "0.png").unlink(), "have no label"),
        (lambda root: (root / "images" / "0.png").write_bytes(b"x"), "can't be read"),
        (lambda root: cv2.imwrite(str(root / "labels" / "0.png"), np.full((64, 96), 77, np.uint8)), "label value 77"),
        (lambda root: cv2.imwrite(str(root / "labels" / "0.png"), np.zeros((10, 10), np.uint8)), "does not fit"),
    ],
)
def test_a_broken_data_set_is_named(tmp_path, spoil, says):
    root = folder(tmp_path / "a")
    spoil(root)
    with pytest.raises(ConfigError, match=says):
        image_label_folder(root).read(0)


def test_exact_meaning_is_exact(tmp_path):
    assert image_label_folder(folder(tmp_path / "a")).is_exact
    assert exact_meaning().shape == (12, 12)


@pytest.fixture
def trained(tmp_path, monkeypatch) -> tuple[Trainer, Path]:
    """A few steps on six small pictures."""
    monkeypatch.setitem(__import__("perception.training.train", fromlist=["SCALES"]).SCALES, "a", (0.8, 1.2))
    recipe = Recipe(
        steps=8, warmup=1, counts={"a": 2}, crop=(64, 64), width=16, frozen=0, validate_every=100, bfloat16=False
    )
    data = image_label_folder(folder(tmp_path / "a"), "a")
    trainer = Trainer(recipe, {"a": data}, tmp_path / "run")
    losses: list[float] = []
    trainer.train(data, lambda _step, loss: losses.append(loss))
    assert len(losses) == 8
    assert np.isfinite(losses).all()
    return trainer, tmp_path / "run"


def test_a_run_goes_on_where_it_stopped(trained):
    trainer, run = trained
    again = Trainer(trainer.recipe, {"a": trainer.mixture.datasets[0][0]}, run)
    assert again.resume()
    assert again.step == 8
    for a, b in zip(again.net.state_dict().values(), trainer.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_log_has_one_row_a_validation(trained):
    _, run = trained
    lines = (run / "log.csv").read_text().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step,loss,miou,sky")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_exported_graph_says_what_the_network_says(trained, tmp_path, engine):
    if engine == "openvino":
        pytest.importorskip("openvino", reason="the openvino extra is not installed")
    trainer, run = trained
    out = tmp_path / "net.onnx"
    export(run / "last.pt", out, 96, 64, {"licence": "test"}, {"mIoU": "none"})
    files = find(str(out))
    model = SemanticModel(files, open_engine(files.graph, engine))  # type: ignore[arg-type]
    image, _ = trainer.mixture.datasets[0][0].read(0)
    ours = model(image).labels
    theirs = predict(trainer.averaged.eval(), image)
    assert np.mean(ours == theirs) > 0.99
    assert files.card.class_table().names == CLASSES


def test_the_int8_graph_agrees_with_the_float_one(trained, tmp_path):
    pytest.importorskip("onnx", reason="the train extra is not installed")
    trainer, run = trained
    out = tmp_path / "net8.onnx"
    export_int8(run / "last.pt", out, 96, 64, {"licence": "test"}, {}, [tmp_path / "a" / "images"])
    files = find(str(out))
    image, _ = trainer.mixture.datasets[0][0].read(0)
    ours = SemanticModel(files, open_engine(files.graph, "onnxruntime"))(image).labels
    assert np.mean(ours == predict(trainer.averaged.eval(), image)) > 0.8


def test_calibrating_on_nothing_is_refused(tmp_path):
    pytest.importorskip("onnx", reason="the train extra is not installed")
    from perception.training.quantise import Pictures

    with pytest.raises(ConfigError, match="no pictures"):
        Pictures([tmp_path], 64, 64)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match=r"last\.pt"):
        export(path, tmp_path / "x.onnx", 64, 64, {}, {})
