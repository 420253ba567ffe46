from __future__ import annotations

import importlib
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.cli import app  # noqa: E402
from perception.errors import ConfigError, ModelError, PerceptionError  # noqa: E402
from perception.opencv import cv2  # noqa: E402
from perception.training.checkpoint import SaveError, load_checkpoint, load_network, part, save_checkpoint  # noqa: E402
from perception.training.command import Request, configured, train_command  # noqa: E402
from perception.training.config import CLASSES, THINGS, OptimizerConfig, read_training_config  # noqa: E402
from perception.training.datasets import open_dataset  # noqa: E402
from perception.training.label_set import Codes  # noqa: E402
from perception.training.networks import build_network  # noqa: E402
from perception.training.optimizer import SpikeGuard, freeze  # noqa: E402
from perception.training.schedule import learning_rate  # noqa: E402
from perception.training.trainer import Trainer  # noqa: E402
from perception.training.validation import validate  # noqa: E402
from tests.training_fakes import CONFIG, no_file_beyond, write_config, write_pictures  # noqa: E402
from tests.training_runs import REALTIME, checked, complete_run, quiet, rows_of, trained, validated, weights  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_equal(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


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


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A complete run, and the folder of its data."""
    return complete_run(tmp_path_factory.mktemp("straight"))


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


def test_the_check_takes_start_weights_that_fit(straight, tmp_path):
    assert checked(tmp_path, start=straight / "run" / "best.safetensors") == {"a": 5, "validation": 3}


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
