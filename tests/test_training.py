from __future__ import annotations

import csv
import importlib
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.cli import app  # noqa: E402
from perception.errors import ConfigError, ModelError, PerceptionError  # noqa: E402
from perception.opencv import cv2  # noqa: E402
from perception.training.batches import Batch, Mixture, chosen  # noqa: E402
from perception.training.checkpoint import SaveError, load_checkpoint, load_network, part, save_checkpoint  # noqa: E402
from perception.training.command import Outcome, Request, check_command, configured, train_command  # noqa: E402
from perception.training.config import (  # noqa: E402
    CLASSES,
    THINGS,
    LossConfig,
    OptimizerConfig,
    TeacherConfig,
    read_training_config,
    shipped_configs,
)
from perception.training.datasets import open_dataset  # noqa: E402
from perception.training.label_set import Codes, read_label_set  # noqa: E402
from perception.training.losses import dice_loss, ohem_cross_entropy, set_cross_entropy  # noqa: E402
from perception.training.networks import build_network, check  # noqa: E402
from perception.training.networks.prediction import Prediction  # noqa: E402
from perception.training.objective import Objective, distillation_loss  # noqa: E402
from perception.training.optimizer import SpikeGuard, freeze  # noqa: E402
from perception.training.schedule import learning_rate  # noqa: E402
from perception.training.teacher import open_teacher  # noqa: E402
from perception.training.trainer import Trainer  # noqa: E402
from perception.training.validation import validate  # noqa: E402
from tests.training_fakes import CONFIG, no_file_beyond, write_config, write_pictures  # noqa: E402

REALTIME = CONFIG.replace('kind = "unet"\nwidth = 8', 'kind = "realtime"\nwidth = 16')
REALTIME = REALTIME.replace("samples = 2", 'samples = 2\ninstances = "exact"')


pytestmark = pytest.mark.usefixtures("one_thread")


def quiet(_what: str, _done: int, _total: int) -> None:
    pass


def trained(folder: Path, name: str = "run", text: str = CONFIG, progress=quiet, **options) -> Outcome:
    """A run without validation, which changes no weight and takes most of the time here."""
    options = {"without": ["validation"], **options}
    return validated(folder, name, text, progress, **options)


def validated(folder: Path, name: str = "run", text: str = CONFIG, progress=quiet, **options) -> Outcome:
    config = write_config(folder, text)
    return train_command(Request(config, folder / name, device="cpu", **options), progress)


def weights(run: Path, name: str = "last.safetensors"):
    return load_checkpoint(run / name)[0]


def rows_of(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "log.csv").read_text().splitlines()))


def assert_equal(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# configurations


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_configuration_is_valid_and_its_network_can_be_built(name, tmp_path):
    config, _ = read_training_config(name)
    check(config.network, len(config.classes))
    assert not any(side % 32 for side in config.crop)
    codes = Codes(config.classes)
    Objective(config.loss, torch.from_numpy(codes.meaning()))
    for data in filter(None, [*config.data.values(), config.validation]):
        codes.table(read_label_set(data.label_set, tmp_path), name)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("version = 1\n", "", "the first line must be version = 1"),
        ("version = 1\n", "version = 2\n", "the first line must be version = 1"),
        ("warmup = 2", "warm_up = 2", "unknown key 'optimizer.warm_up'; did you mean 'warmup'"),
        ("steps = 8", "steps = 0", "steps: Expected"),
        ("crop = [32, 48]", "crop = [30, 48]", "crop"),
        ("samples = 2", "samples = 2\nscale = [2.0, 1.0]", "data.a.scale: .* upside down"),
        ('kind = "unet"', 'kind = "unett"', "network.kind"),
        ("[data.a]", "[data.validation]", "the name is taken"),
        (
            "samples = 2",
            'samples = 2\ntaught = false\n[teacher]\ncheckpoint = "road"',
            "every data set has taught = false",
        ),
        ("[network]", '[loss]\nsemantic = { ohm = 1.0 }\n[network]', "'ohm' is not one of .*did you mean 'ohem'"),
        (
            "[network]",
            "[loss]\nsemantic = { ohem = 0.0 }\ncoarse = 0.0\nauxiliary = 0.0\n[network]",
            "every weight is 0",
        ),
        ("log_steps = 2", 'log_steps = 2\nthings = ["tram"]', "things: 'tram' is not one of the classes"),
        ("log_steps = 2", 'log_steps = 2\nclasses = ["road", ""]', r"classes\[1\]: Expected `str` of length >= 1"),
        ("log_steps = 2", f'log_steps = 2\nclasses = ["a", "{"x" * 65}"]', r"classes\[1\]: .* of length <= 64"),
        ("log_steps = 2", 'log_steps = 2\nprecision = "float16"', "needs a GPU"),
        ("width = 8", 'width = 8\npadding = "valid"', r"crop: \[32, 48\]: .* give 108 px a side"),
        ("warmup = 2", "frozen_stages = 2", "frozen_stages is 2; this network's backbone has 0"),
        ("warmup = 2", 'only = ["haed"]', "only: 'haed' is not a part of this network: .*head"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_one_line(tmp_path, before, after, says):
    with pytest.raises(ConfigError, match=says) as caught:
        trained(tmp_path, text=CONFIG.replace(before, after, 1))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_configuration_that_is_not_there_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match=r"there is none; name a \.toml file or one of .*road"):
        read_training_config("raod")


def test_names_on_the_command_line_must_be_those_of_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match="no data set 'b'; it has a, validation"):
        validated(tmp_path, folders={"b": tmp_path})
    with pytest.raises(ConfigError, match="no data set is left"):
        trained(tmp_path, without=["a"])


def test_frozen_random_weights_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--start FILE"):
        trained(tmp_path, text=REALTIME.replace("warmup = 2", "frozen_stages = 2"))


# batches


def mixture(folder: Path, text: str = CONFIG) -> Mixture:
    config, base = read_training_config(write_config(folder, text))
    codes = Codes(CLASSES)
    return Mixture([open_dataset(n, d, codes, THINGS, base) for n, d in config.data.items()], config)


def test_a_batch_is_the_same_whenever_it_is_asked_for(tmp_path):
    a, b = mixture(tmp_path), mixture(tmp_path, CONFIG.replace("cache_mb = 16", "cache_mb = 0\nworkers = 3"))
    ahead = list(b.batches(2, 6))
    for step in (5, 3):
        assert torch.equal(a.batch(step).images, ahead[step - 2].images)
        assert torch.equal(a.batch(step).codes, ahead[step - 2].codes)


def test_every_sample_comes_once_a_pass():
    passes = [sorted(i for step in range(3 * e, 3 * e + 3) for i in chosen(6, 2, step, (1,))) for e in range(2)]
    assert passes == [list(range(6))] * 2
    assert chosen(6, 6, 0, (1,)) != chosen(6, 6, 1, (1,))


def test_beyond_the_picture_no_centre_is_not_known_either(tmp_path):
    """A batch of crops that are larger than the pictures: there may be a thing beyond their borders."""
    batch = mixture(tmp_path, REALTIME.replace("crop = [32, 48]", "crop = [96, 128]")).batch(0)
    assert batch.is_known is not None
    is_labelled = batch.codes[:, 1::2, 1::2] != 255
    assert not bool(is_labelled.all())
    assert torch.equal(batch.is_known[:, 0] > 0, is_labelled)


def test_a_panoptic_network_gets_centres_and_offsets(tmp_path):
    batch = mixture(tmp_path, REALTIME).batch(0)
    shapes = [batch.centre, batch.offset, batch.is_thing, batch.is_known]
    assert [tuple(t.shape) for t in shapes if t is not None] == [(2, 1, 16, 24), (2, 2, 16, 24)] + [(2, 1, 16, 24)] * 2


def test_all_wrong_files_are_counted_before_training(tmp_path):
    config = write_config(tmp_path)
    for name in ("0.png", "3.png"):
        cv2.imwrite(str(tmp_path / "a" / "labels" / name), np.full((48, 64), 77, np.uint8))
    with pytest.raises(ConfigError, match=r"data set 'a': 2 of 5 samples are wrong; first: .*0\.png: label value 77"):
        train_command(Request(config, tmp_path / "run", device="cpu"), quiet)
    assert not (tmp_path / "run").exists()


def test_a_file_that_goes_bad_during_a_run_takes_nothing_with_it(tmp_path):
    def spoil(what: str, done: int, _total: int) -> None:
        if what.startswith("loss") and done == 2:
            (tmp_path / "a" / "labels" / "0.png").write_bytes(b"")

    with pytest.raises(ConfigError, match=r"0\.png: broken or cut off"):
        validated(tmp_path, progress=spoil)  # the validation reads it
    assert load_checkpoint(tmp_path / "run" / "last.safetensors")[1].step == 4


def test_the_check_draws_a_batch(tmp_path):
    config = write_config(tmp_path)
    counts = check_command(Request(config), tmp_path / "sheet" / "batch.png", quiet)
    assert counts == {"a": 5, "validation": 3}
    picture = cv2.imread(str(tmp_path / "sheet" / "batch.png"))
    assert picture is not None
    assert picture.shape == (3 * 32, 3 * 48, 3)


def checked(folder: Path, text: str = CONFIG, **options) -> dict[str, int]:
    return check_command(Request(write_config(folder, text), folder / "run", **options), folder / "batch.png", quiet)


def test_the_check_refuses_start_weights_that_training_would_refuse(tmp_path):
    with pytest.raises(ConfigError, match=r"nope: start weights are"):
        checked(tmp_path, start=Path("nope"))
    with pytest.raises(ConfigError, match="--start FILE"):
        checked(tmp_path, REALTIME.replace("warmup = 2", "frozen_stages = 2"))


def test_the_check_counts_wrong_files_before_it_takes_the_start_weights(tmp_path):
    write_config(tmp_path)
    for path in (tmp_path / "a" / "labels").iterdir():
        cv2.imwrite(str(path), np.full((48, 64), 77, np.uint8))
    with pytest.raises(ConfigError, match="data set 'a': 5 of 5 samples are wrong"):
        checked(tmp_path, start=Path("nope"))


VALID = CONFIG.replace("width = 8", 'width = 8\npadding = "valid"').replace("crop = [32, 48]", "crop = [112, 128]")


def test_the_check_refuses_sizes_that_the_network_does_not_take(tmp_path):
    """Not after hours, at the first validation."""
    with pytest.raises(ConfigError, match=r"validation.size: \[96, 128\]: .* give 108 px a side"):
        checked(tmp_path, VALID.replace("take_every = 2", "take_every = 2\nsize = [96, 128]"))
    with pytest.raises(ConfigError, match=r"a/images/0\.png: .* give 108 px a side; or set validation.size"):
        checked(tmp_path, VALID)  # the pictures' own size
    assert checked(tmp_path, VALID.replace("take_every = 2", "take_every = 2\nsize = [112, 128]"))["validation"] == 3


def test_the_check_tries_each_size_of_the_validation_pictures(tmp_path):
    write_config(tmp_path)
    for kind in ("images", "labels"):
        path = str(tmp_path / "a" / kind / "2.png")
        cv2.imwrite(path, np.full((128, 112, 3)[: 3 if kind == "images" else 2], 3, np.uint8))
        for other in (0, 1, 3, 4):
            path = str(tmp_path / "a" / kind / f"{other}.png")
            cv2.imwrite(path, np.full((112, 128, 3)[: 3 if kind == "images" else 2], 3, np.uint8))
    assert checked(tmp_path, VALID)["validation"] == 3
    for kind in ("images", "labels"):
        path = str(tmp_path / "a" / kind / "2.png")
        cv2.imwrite(path, np.full((96, 112, 3)[: 3 if kind == "images" else 2], 3, np.uint8))
    with pytest.raises(ConfigError, match=r"a/images/2\.png: .* give 108 px a side; or set validation.size"):
        checked(tmp_path, VALID)


def test_the_check_refuses_a_batch_without_a_variance(tmp_path):
    """A batch norm can't train on one cell of one sample."""
    text = REALTIME.replace("crop = [32, 48]", "crop = [32, 32]").replace("samples = 2", "samples = 1")
    text = text.replace('kind = "realtime"\nwidth = 16', 'kind = "panoptic-deeplab"\noutput_stride = 32')
    with pytest.raises(ConfigError, match=r"crop: \[32, 32\]: too small for batches of one sample"):
        checked(tmp_path, text)
    assert checked(tmp_path, text.replace("samples = 1", "samples = 2"))["validation"] == 3


def test_the_check_tries_the_teacher(tmp_path):
    trained(tmp_path, "valid", VALID, steps=1)
    shutil.copy(tmp_path / "valid" / "last.safetensors", tmp_path / "t.safetensors")
    text = CONFIG + '[teacher]\ncheckpoint = ["road", "t.safetensors"]\n'
    with pytest.raises(ConfigError, match=r"crop: \[32, 48\]: the teacher t.safetensors: .* give 108 px a side"):
        checked(tmp_path, text)
    with pytest.raises(ConfigError, match=r"the teacher t\.safetensors"):
        trained(tmp_path, text=text)
    assert not (tmp_path / "run").exists()


def test_a_size_is_tried_without_a_trace(tmp_path):
    config, base = configured(Request(write_config(tmp_path, REALTIME), device="cpu"))
    torch.manual_seed(config.seed)
    fresh = build_network(config.network, len(config.classes)).state_dict()
    trainer = Trainer(config, base, tmp_path, torch.device("cpu"))
    trainer.try_sizes()
    network = trainer.learner.network
    assert network.training
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in network.state_dict().items())


def test_the_check_takes_start_weights_that_fit(straight, tmp_path):
    assert checked(tmp_path, start=straight / "run" / "best.safetensors") == {"a": 5, "validation": 3}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_check_looks_for_the_device(tmp_path):
    with pytest.raises(ConfigError, match="device 'cuda': no GPU"):
        checked(tmp_path, device="cuda")
    with pytest.raises(ConfigError, match="precision 'float16' needs a GPU"):
        checked(tmp_path, CONFIG.replace("steps = 8", 'steps = 8\nprecision = "float16"'))


def test_the_check_of_a_run_that_goes_on_reads_its_last_checkpoint(tmp_path):
    trained(tmp_path, steps=1)
    assert checked(tmp_path, resume=True, steps=1, without=["validation"]) == {"a": 5}
    with pytest.raises(ConfigError, match="seed"):
        checked(tmp_path, resume=True, steps=1, seed=5, without=["validation"])


# the loss of a batch

MEANING = torch.tensor([[True, False, False], [False, True, False], [False, False, True], [True, True, False]])


def prediction(**heads) -> Prediction:
    generator = torch.Generator().manual_seed(0)
    return Prediction(torch.randn(2, 3, 16, 16, generator=generator), **heads)


def test_exact_pixels_get_the_semantic_losses_and_coarse_ones_the_set_loss():
    codes = torch.randint(0, 4, (2, 16, 16), generator=torch.Generator().manual_seed(1))
    codes[:, :2] = 255
    logits = prediction().semantic
    parts = Objective(LossConfig(), MEANING)(prediction(), Batch(torch.zeros(0), codes))
    exact, coarse = codes.masked_fill(codes == 3, 255), codes.masked_fill(codes != 3, 255)
    share = (codes == 3).sum() / (codes != 255).sum()
    assert parts.keys() == {"ohem", "dice", "coarse"}
    assert torch.allclose(parts["ohem"], ohem_cross_entropy(logits, exact))
    assert torch.allclose(parts["dice"], 0.5 * dice_loss(logits, exact))
    assert torch.allclose(parts["coarse"], share * set_cross_entropy(logits, coarse, MEANING))


def test_a_batch_without_a_label_costs_nothing():
    parts = Objective(LossConfig(), MEANING)(prediction(), Batch(torch.zeros(0), torch.full((2, 16, 16), 255)))
    assert {name: float(v) for name, v in parts.items()} == {"ohem": 0.0, "dice": 0.0}


def test_all_heads_have_their_part():
    ones = torch.ones(2, 1, 4, 4)
    heads = {"centre": ones * 0.5, "offset": torch.ones(2, 2, 4, 4) * 3, "auxiliary": torch.zeros(2, 3, 2, 2)}
    batch = Batch(torch.zeros(0), torch.zeros(2, 16, 16).long(), ones, torch.zeros(2, 2, 4, 4), ones, ones)
    parts = Objective(LossConfig(), MEANING)(prediction(**heads), batch)
    assert float(parts["centre"]) == pytest.approx(200 * 0.25)
    assert float(parts["offset"]) == pytest.approx(0.01 * 3)
    assert float(parts["auxiliary"]) == pytest.approx(0.4 * math.log(3))


def test_logits_of_any_stride_are_compared_on_the_losses_grid():
    codes = torch.zeros(2, 32, 32).long()
    for stride in (1, 2, 4):
        parts = Objective(LossConfig(stride=stride), MEANING)(prediction(), Batch(torch.zeros(0), codes))
        assert torch.isfinite(parts["ohem"])


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_what_validation_would_see_as_right_costs_nothing(stride):
    """Half a pixel between the two and a lane marking loses several points."""
    semantic = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    full = torch.nn.functional.interpolate(semantic, (16, 16), mode="bilinear", align_corners=False)
    config = LossConfig(semantic={"ce": 1.0}, stride=stride)
    parts = Objective(config, MEANING)(Prediction(1e6 * semantic), Batch(torch.zeros(0), full.argmax(1)))
    assert float(parts["ce"]) == 0


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


# steps


@pytest.mark.parametrize(("schedule", "middle"), [("poly", 0.5**0.9), ("cosine", 0.5), ("constant", 1.0)])
def test_the_learning_rate_warms_up_and_follows_its_schedule(schedule, middle):
    config = OptimizerConfig(learning_rate=2.0, schedule=schedule, warmup=10)
    rates = [learning_rate(config, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.2, rel=1e-3)
    assert rates[500] == pytest.approx(2.0 * middle)
    assert rates[999] < 0.02 or schedule == "constant"


def test_a_garbage_gradient_is_refused_but_not_a_rising_one():
    guard = SpikeGuard(100.0)
    assert [guard.accepts(norm) for norm in (3, 90, 5, math.nan, math.inf, 4e9, 7)] == [True] * 3 + [False] * 3 + [True]
    assert (guard.refused, guard.refused_in_a_row) == (3, 0)
    steady = SpikeGuard(100.0)
    assert all(steady.accepts(200.0 * 1.05**i) for i in range(60))


def test_a_run_can_start_from_the_shipped_weights_by_name(tmp_path):
    config, _ = configured(Request("road", start=Path("road"), device="cpu"))
    network, about = load_network(Path(config.start))
    assert (about.classes, about.things) == (config.classes, config.things)
    assert sum(p.numel() for p in network.parameters()) < 8e6


def test_a_step_on_garbage_changes_neither_weights_nor_statistics(tmp_path):
    config, base = configured(Request(write_config(tmp_path, REALTIME), without=["validation"], device="cpu"))
    trainer = Trainer(config, base, tmp_path, torch.device("cpu"))
    before = [tensor.clone() for tensor in trainer.learner.network.state_dict().values()]
    batch = trainer.mixture.batch(0)
    batch.images[0, 0, 0, 0] = math.nan
    trainer._train_step(batch)
    assert trainer.learner.guard.refused == 1
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.learner.network.state_dict().values(), strict=True))


def test_frozen_stages_keep_their_weights():
    network = build_network(read_training_config("road")[0].network, 3)
    frozen = freeze(network, OptimizerConfig(frozen_stages=2))
    assert len(frozen) == 3
    free = {n for n, p in network.named_parameters() if p.requires_grad}
    assert not any(n.startswith(("backbone.stem", "backbone.stages.0.", "backbone.stages.1.")) for n in free)
    assert any(n.startswith("backbone.stages.2.") for n in free)


def test_only_some_parts_learn(tmp_path):
    shipped = Path(configured(Request("road", start=Path("road"), device="cpu"))[0].start)
    text = REALTIME.replace("warmup = 2", 'warmup = 0\nonly = ["centre", "offset"]')
    text += "\n[loss]\nsemantic = {}\ncoarse = 0.0\nauxiliary = 0.0\noffset_balance = 0.5\n"
    request = Request(write_config(tmp_path, text), without=["validation"], device="cpu", start=shipped)
    config, base = configured(request)
    trainer = Trainer(config, base, tmp_path, torch.device("cpu"))
    trainer.start()
    before = {name: tensor.clone() for name, tensor in trainer.learner.network.state_dict().items()}
    values = trainer._train_step(trainer.mixture.batch(0))
    assert {"centre", "offset"} <= {*values}
    assert "auxiliary" not in values
    changed = {n for n, tensor in trainer.learner.network.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {"centre.weight", "centre.bias", "offset.weight", "offset.bias"}


# runs


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A complete run of eight steps, and the folder of its data."""
    folder = tmp_path_factory.mktemp("straight")
    torch.set_num_threads(1)
    assert validated(folder).is_complete
    return folder


def test_a_run_leaves_checkpoints_log_events_and_curves(straight):
    names = {p.name for p in (straight / "run").iterdir()}
    assert names == {"last.safetensors", "best.safetensors", "log.csv", "curves.png", "tensorboard", ".lock"}
    assert any((straight / "run" / "tensorboard").iterdir())
    picture = cv2.imread(str(straight / "run" / "curves.png"))
    assert picture is not None


def test_the_log_has_rows_of_losses_and_scores(straight):
    rows = rows_of(straight / "run")
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8]
    assert all(float(row["ohem"]) > 0 and float(row["loss"]) > 0 for row in rows)
    assert [bool(row["miou"]) for row in rows] == [False, True, False, True]
    assert 0 <= float(rows[-1]["road"]) <= 1
    assert float(rows[-1]["epoch"]) == pytest.approx(8 / 3, abs=1e-3)


def test_the_best_checkpoint_is_the_one_that_validated_best(straight):
    rows = [row for row in rows_of(straight / "run") if row["miou"]]
    best = max(rows, key=lambda row: float(row["miou"]))
    network, about = load_network(straight / "run" / "best.safetensors")
    assert about.step == int(best["step"])
    assert about.miou == pytest.approx(float(best["miou"]), abs=1e-4)
    config, base = read_training_config(str(straight / "tiny.toml"))
    assert config.validation
    pictures = open_dataset("validation", config.validation, Codes(CLASSES), THINGS, base)
    assert validate(network, pictures, None, len(CLASSES)).mean_iou() == pytest.approx(about.miou, abs=1e-4)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(straight, tmp_path):
    trained(straight, "again")
    assert_equal(straight / "run", straight / "again")
    trained(straight, "other", seed=1, steps=2)
    assert not torch.equal(
        weights(straight / "other")["network.head.weight"], weights(straight / "run")["network.head.weight"]
    )


KILLED = """
import os, signal, sys
import torch
from pathlib import Path
from perception.training.command import Request, train_command

torch.set_num_threads(1)

def progress(what, done, total):
    if what.startswith("loss") and done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

train_command(Request(sys.argv[1], Path(sys.argv[2]), device="cpu", without=["validation"]), progress)
"""


def test_a_run_killed_in_the_middle_goes_on_to_the_very_same_weights(straight):
    arguments = [sys.executable, "-c", KILLED, str(straight / "tiny.toml"), str(straight / "killed")]
    assert subprocess.run(arguments, capture_output=True).returncode == -signal.SIGKILL
    assert load_checkpoint(straight / "killed" / "last.safetensors")[1].step == 3
    assert trained(straight, "killed", resume=True).is_complete
    assert_equal(straight / "run", straight / "killed")
    steps = [row["step"] for row in rows_of(straight / "killed")]
    assert steps == ["2", "4", "6", "8"]


def test_a_panoptic_run_with_batch_norm_goes_on_exactly_too(tmp_path):
    text = REALTIME.replace("steps = 8", "steps = 4").replace("every_steps = 3", "every_steps = 2")
    trained(tmp_path, "straight", text)

    def interrupt(what: str, done: int, _total: int) -> None:
        if what.startswith("loss") and done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    assert not trained(tmp_path, "stopped", text, interrupt).is_complete
    assert trained(tmp_path, "stopped", text, resume=True).is_complete
    assert_equal(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_at_the_step_it_was_at(straight, number):
    name = f"stopped-{number}"
    before = signal.getsignal(number)

    def interrupt(what: str, done: int, _total: int) -> None:
        if what.startswith("loss") and done == 2:
            os.kill(os.getpid(), number)

    outcome = trained(straight, name, progress=interrupt)
    assert (outcome.step, outcome.is_complete) == (2, False)
    assert load_checkpoint(straight / name / "last.safetensors")[1].step == 2
    assert signal.getsignal(number) is before


def test_a_full_disk_costs_checkpoints_not_the_run(tmp_path, caplog):
    trained(tmp_path, steps=2)
    old = (tmp_path / "run" / "last.safetensors").read_bytes()
    with no_file_beyond(100_000), pytest.raises(SaveError, match=r"can't be written.*go on .* with --resume"):
        trained(tmp_path, resume=True, steps=2)
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == old
    with no_file_beyond(100_000), pytest.raises(SaveError):
        trained(tmp_path, "new")
    assert "training goes on and tries again" in caplog.text
    assert not list((tmp_path / "new").glob("*.safetensors"))
    assert len((tmp_path / "new" / "log.csv").read_text().splitlines()) == 5  # it went on to the end


def test_any_error_out_of_a_validation_takes_nothing_with_it(tmp_path):
    def fail(what: str, _done: int, _total: int) -> None:
        if what.startswith("validating"):
            raise RuntimeError("no such luck")

    with pytest.raises(RuntimeError, match="no such luck"):
        validated(tmp_path, progress=fail, steps=4)
    assert load_checkpoint(tmp_path / "run" / "last.safetensors")[1].step == 4
    losses = [row["loss"] for row in rows_of(tmp_path / "run")]
    assert len(losses) == 2
    assert validated(tmp_path, resume=True, steps=4).best is not None  # it is made good
    assert [(row["step"], bool(row["miou"])) for row in rows_of(tmp_path / "run")] == [("2", False), ("4", True)]
    assert [row["loss"] for row in rows_of(tmp_path / "run")] == losses
    assert validated(tmp_path, resume=True, steps=4).is_complete
    assert len(rows_of(tmp_path / "run")) == 2


def test_a_folder_with_a_run_is_not_begun_anew(straight):
    before = weights(straight / "run")
    with pytest.raises(ConfigError, match="holds a run already; go on with --resume"):
        trained(straight)
    assert before.keys() == weights(straight / "run").keys()


def test_resuming_nothing_begins(tmp_path):
    assert trained(tmp_path, resume=True, steps=1).is_complete


def test_a_broken_checkpoint_is_named_and_left_alone(tmp_path):
    trained(tmp_path, steps=1)
    path = tmp_path / "run" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="not a whole checkpoint"):
        trained(tmp_path, resume=True, steps=1)
    assert path.stat().st_size == 5000


def test_the_best_weights_alone_are_nothing_to_go_on_from(straight, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.safetensors").write_bytes((straight / "run" / "best.safetensors").read_bytes())
    with pytest.raises(ModelError):
        validated(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 5}, "seed was 0, is 5"),
        ({"steps": 9}, "steps was 8, is 9"),
        ({"text": CONFIG.replace("samples = 2", "samples = 3")}, "data.a.samples was 2, is 3"),
        ({"text": CONFIG + "[augment]\nnight = 0.5\n"}, "augment.night was 0.0, is 0.5"),
        ({"text": CONFIG.replace("width = 8", "width = 16")}, "network.width was 8, is 16"),
    ],
)
def test_a_run_does_not_go_on_with_another_configuration(straight, tmp_path, change, says):
    write_pictures(tmp_path / "a")
    (tmp_path / "run").symlink_to(straight / "run")
    with pytest.raises(ConfigError, match=says):
        validated(tmp_path, resume=True, **change)


TWO = """
[data.b]
label_set = "mine.toml"
folder = "a"
"""
MINE = """version = 1
labels = [{ value = 3, name = "ground", can_be = ["road", "sidewalk"] }, { value = 8, name = "car", can_be = ["car"] }]
"""


def test_a_run_does_not_go_on_with_another_order_or_another_label_set(tmp_path):
    """Batches follow the one, what is learnt from them the other."""
    (tmp_path / "mine.toml").write_text(MINE)
    text = CONFIG.split("[validation]")[0] + TWO
    data, other = text.index("[data.a]"), text.index("[data.b]")
    trained(tmp_path, text=text, steps=1, without=())
    with pytest.raises(ConfigError, match=r"the tables \[data.\*\] were in the order a, b; bring it back"):
        trained(tmp_path, text=text[:data] + text[other:] + text[data:other], steps=1, without=(), resume=True)
    (tmp_path / "mine.toml").write_text(MINE.replace('"road", "sidewalk"', '"road"'))
    with pytest.raises(ConfigError, match="the label set of data set 'b' has changed"):
        trained(tmp_path, text=text, steps=1, without=(), resume=True)
    (tmp_path / "mine.toml").write_text(MINE.replace('"ground"', '"other words"'))
    assert trained(tmp_path, text=text, steps=1, without=(), resume=True).is_complete


def test_a_checkpoint_that_does_not_say_its_label_sets_goes_on(straight, tmp_path, caplog):
    write_pictures(tmp_path / "a")
    tensors, about = load_checkpoint(straight / "run" / "last.safetensors")
    state = {key: value for key, value in about.state.items() if key != "meanings"}
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run" / "last.safetensors", tensors, msgspec.structs.replace(about, state=state))
    assert validated(tmp_path, resume=True).is_complete
    assert "ignored pixels" not in caplog.text  # it has no instances


def test_a_panoptic_run_of_an_earlier_version_is_told_what_it_learns_otherwise(tmp_path, caplog):
    trained(tmp_path, text=REALTIME, steps=1)
    path = tmp_path / "run" / "last.safetensors"
    trained(tmp_path, text=REALTIME, steps=1, resume=True)
    assert "ignored pixels" not in caplog.text
    tensors, about = load_checkpoint(path)
    state = {key: value for key, value in about.state.items() if key != "meanings"}
    save_checkpoint(path, tensors, msgspec.structs.replace(about, state=state))
    trained(tmp_path, text=REALTIME, steps=1, resume=True)
    assert "from step 1 on ignored pixels and those beyond the pictures teach no centres" in caplog.text


def test_a_run_does_not_go_on_with_other_pictures(straight, tmp_path):
    write_pictures(tmp_path / "a", 4)
    (tmp_path / "run").symlink_to(straight / "run")
    with pytest.raises(ConfigError, match="data set 'a' had 5 samples, has 4"):
        validated(tmp_path, resume=True)


def test_what_changes_no_result_may_change(straight, tmp_path):
    text = CONFIG.replace("every_steps = 3", "every_steps = 0").replace("log_steps = 2", "log_steps = 3\nworkers = 2")
    write_pictures(tmp_path / "elsewhere")
    write_pictures(tmp_path / "a")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.safetensors").write_bytes((straight / "run" / "last.safetensors").read_bytes())
    assert validated(tmp_path, text=text, resume=True, folders={"a": tmp_path / "elsewhere"}).is_complete


def test_a_key_that_the_run_did_not_know_yet_may_have_its_default(straight, tmp_path):
    write_pictures(tmp_path / "a")
    tensors, about = load_checkpoint(straight / "run" / "last.safetensors")
    loss = {key: value for key, value in about.config["loss"].items() if key != "offset_balance"}
    older = msgspec.structs.replace(about, config=about.config | {"loss": loss})
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run" / "last.safetensors", tensors, older)
    assert validated(tmp_path, resume=True).is_complete
    with pytest.raises(ConfigError, match=r"loss.offset_balance was 0.0, is 0.5"):
        validated(tmp_path, resume=True, text=CONFIG + "[loss]\noffset_balance = 0.5\n")


def test_parts_that_no_loss_reaches_are_named(tmp_path):
    write_pictures(tmp_path / "a")
    text = REALTIME + '[loss]\ncentre = 0\noffset = 0\n[optimizer]\nonly = ["centre", "offset"]\n'
    text = text.replace("[optimizer]\nwarmup = 2\n", "", 1)
    config, base = configured(Request(str(write_config(tmp_path, text)), tmp_path / "run", device="cpu"))
    trainer = Trainer(config, base, tmp_path / "run", torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"optimizer.only: no loss reaches the parts that are to learn"):
        trainer.train(quiet)


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


def resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
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


def test_a_shipped_checkpoint_teaches_by_its_name(tmp_path):
    teacher = open_teacher(TeacherConfig(checkpoint="road"), tmp_path, CLASSES)
    assert teacher(torch.zeros(1, 3, 32, 64)).shape == (1, len(CLASSES), 16, 32)


def test_a_teacher_of_other_classes_is_refused(straight, tmp_path):
    text = CONFIG.replace("steps = 8", f"steps = 8\nclasses = {[*CLASSES, 'tram']}")
    with pytest.raises(ModelError, match="the teacher knows other classes"):
        trained(tmp_path, text=text + f'[teacher]\ncheckpoint = "{straight / "run" / "best.safetensors"}"\n')


def test_a_run_starts_from_the_weights_of_another(straight, tmp_path):
    text = CONFIG.replace("steps = 8", "steps = 1").replace("warmup = 2", "learning_rate = 1e-12\nweight_decay = 0.0")
    trained(tmp_path, text=text, start=straight / "run" / "best.safetensors")
    theirs = part(weights(straight / "run", "best.safetensors"), "averaged.")
    ours = part(weights(tmp_path / "run"), "network.")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.npz", "ImageNet weights are for MobileNetV2 and EfficientNet-Lite, which"),
        ("a.pt", "start weights are"),
        ("a.safetensors", "no such file"),
    ],
)
def test_start_weights_that_do_not_fit_are_named(tmp_path, name, says):
    with pytest.raises(PerceptionError, match=says):
        trained(tmp_path, start=tmp_path / name)


@pytest.mark.parametrize("name", ["w.npz", "w.pth"])
def test_broken_imagenet_weights_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK no zip")
    with pytest.raises(ModelError, match="not ImageNet weights of this network's backbone"):
        trained(tmp_path, text=REALTIME, start=tmp_path / name)


def test_a_pickle_that_would_run_something_is_not_run(tmp_path):
    torch.save({"_conv_stem.weight": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth: not ImageNet weights"):
        trained(tmp_path, text=REALTIME, start=tmp_path / "w.pth")


def test_a_run_without_a_usable_gradient_ends(tmp_path):
    text = CONFIG.replace("steps = 8", "steps = 80").replace("warmup = 2", "learning_rate = 10\nclip = 0\nwarmup = 0")
    text = text.replace("[optimizer]", '[optimizer]\nkind = "sgd"')
    with pytest.raises(PerceptionError, match="the training has diverged; start again with a lower"):
        trained(tmp_path, text=text)


def test_the_command_line_trains_resumes_and_says_so(tmp_path):
    importlib.import_module("perception.cli.train")
    write_config(tmp_path)
    arguments = [
        "train",
        str(tmp_path / "tiny.toml"),
        "--run",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--steps",
        "2",
    ]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "step 2 of 2, best validation mIoU" in first.output
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, ConfigError)
    assert "--resume" in str(refused.exception)
    assert CliRunner().invoke(app, [*arguments, "--resume"]).exit_code == 0
    assert "write NAME=FOLDER" in str(CliRunner().invoke(app, [*arguments, "--data", "a"]).exception)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch names the operations that it can't promise for
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_same_seed_gives_the_same_weights_on_a_gpu(tmp_path, precision):
    config = write_config(tmp_path, REALTIME.replace("steps = 8", f'steps = 4\nprecision = "{precision}"'))
    for name in ("a", "b"):
        assert train_command(Request(config, tmp_path / f"run-{name}", device="cuda"), quiet).is_complete
    assert_equal(tmp_path / "run-a", tmp_path / "run-b")
