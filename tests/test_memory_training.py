from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("onnx", reason="the train extra is not installed")

from torch import Tensor  # noqa: E402

from perception.errors import ConfigError, ModelError, PerceptionError  # noqa: E402
from perception.training.checkpoint import SaveError, write_whole  # noqa: E402
from perception.training.networks import NetworkConfig  # noqa: E402
from perception.training.networks.memory import MemoryReader  # noqa: E402
from perception.training.propagator.checkpoint import load_reader, load_reader_run, save_reader_run  # noqa: E402
from perception.training.propagator.command import Outcome, Request, train_memory  # noqa: E402
from perception.training.propagator.features import write_clip  # noqa: E402
from perception.training.propagator.sequences import whole  # noqa: E402
from perception.training.propagator.trainer import NORMS, ReaderTrainer, Settings  # noqa: E402
from perception.training.run_folder import held  # noqa: E402
from tests.memory_fakes import clip_of, walking_ids, write_clips, write_network  # noqa: E402
from tests.test_cli import refused, say  # noqa: E402, F401  # a fixture
from tests.training_fakes import no_file_beyond, write_pictures  # noqa: E402

STEPS = 4


pytestmark = pytest.mark.usefixtures("one_thread")


def quiet(_what: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return write_network(tmp_path_factory.mktemp("network") / "panoptic.safetensors")


def trained(network: Path, run: Path, progress=quiet, **changes) -> Outcome:
    """On three clips that the run has made already."""
    if not (run / "clips").exists():
        write_clips(run, 3)
    request = {"rendered": 3, "pasted": 0, "settings": Settings(steps=STEPS, seed=1)} | changes
    return train_memory(Request(str(network), run, {}, **request), progress)


@pytest.fixture(scope="module")
def straight(network, tmp_path_factory) -> Path:
    """A run that was never stopped."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("runs") / "straight"
    assert trained(network, run).is_complete
    return run


# the trainer


def trainer(run: Path, steps: int = STEPS, **changes: float) -> ReaderTrainer:
    run.mkdir(exist_ok=True)
    clips = [clip_of(walking_ids(8), seed=i) for i in range(2)]
    settings = Settings(steps=steps, seed=1, **changes)  # type: ignore[arg-type]
    return ReaderTrainer(settings, run, clips, [clip_of(walking_ids(8), seed=9)])


def tensors_of(run: Path) -> dict[str, Tensor]:
    return load_reader_run(run / "last.safetensors").tensors


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert list(a) == list(b)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_resumed_run_remembers_which_gradients_are_usual(tmp_path):
    one = trainer(tmp_path)
    for norm in (1.0, 2.0, 0.1, float("nan")):
        one.guard.accepts(norm)
    one.save()
    other = trainer(tmp_path)
    other.resume()
    assert other.guard.norms == [1.0, 2.0, 0.1]
    assert other.guard.refused_in_a_row == 1
    assert not other.guard.accepts(1000.0)


def test_a_checkpoint_without_norms_and_channels_can_be_gone_on_with(straight, tmp_path):
    """As runs before these were kept have them."""
    one = trainer(tmp_path)
    tensors, step, channels = load_reader_run(straight / "last.safetensors")
    del tensors[NORMS]
    write_whole(tmp_path / "last.safetensors", tensors, {"format": "perception-memory-1", "step": str(step)})
    one.resume()
    assert (one.step, one.guard.norms, one.reader.channels) == (STEPS, [], channels)


def test_garbage_changes_no_weight_and_too_much_of_it_ends_the_run(tmp_path):
    one = trainer(tmp_path, learning_rate=0.1)
    before = {name: tensor.clone() for name, tensor in one.reader.state_dict().items()}
    clip = clip_of(walking_ids(4))
    clip.features["keys"][:] = float("nan")
    one.sampler.clips = [clip]
    one.guard.refused_in_a_row = 48
    one._train_step(whole(clip, 4))
    assert_equal(before, dict(one.reader.state_dict()))
    with pytest.raises(PerceptionError, match=r"diverged; begin again with a lower --learning-rate"):
        one._train_step(whole(clip, 4))


def test_the_log_of_a_resumed_run_has_each_row_once(tmp_path):
    (tmp_path / "log.csv").write_text("step,minutes,learning_rate,loss\n2,1.5,0.1,3\n4,3,0.1,2\n6,4.5,0.1,1\n8,5")
    one = trainer(tmp_path, steps=5)
    one.step = 4
    assert one.train(quiet, lambda: False)
    with (tmp_path / "log.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert [row["step"] for row in rows] == ["2", "4", "5"]
    assert float(rows[-1]["minutes"]) > 3
    assert float(rows[-1]["loss"]) > 0


def test_a_full_disk_costs_nothing_but_the_last_checkpoint(straight, caplog, tmp_path):
    one = trainer(tmp_path, steps=1)
    one.save()
    old = (tmp_path / "last.safetensors").read_bytes()
    with no_file_beyond(5), pytest.raises(SaveError, match=r"can't be written.*go on .* with --resume"):
        one.train(quiet, lambda: False)
    assert (tmp_path / "last.safetensors").read_bytes() == old
    assert "log.csv: can't be written" in caplog.text
    assert one.step == 1  # it went on to the end


def test_validation_scores_the_average_and_changes_nothing(straight):
    one = trainer(straight)
    one.resume()
    scores = one.validate()
    assert scores == one.validate()
    assert {"ce", "jaccard", "iou"} <= set(scores)
    assert 0 <= scores["iou"] <= 1


def test_weights_of_another_run_can_be_started_from(straight, tmp_path):
    one, reader = trainer(tmp_path), load_reader(straight / "last.safetensors")
    one.start(reader, straight)
    assert_equal(dict(one.reader.state_dict()), dict(reader.state_dict()))
    assert_equal(dict(one.average.network.state_dict()), dict(reader.state_dict()))
    with pytest.raises(ModelError, match=r"reads features of .* channels, the network gives"):
        one.start(MemoryReader((16, 8, 24, 12)), Path("other.safetensors"))


@pytest.mark.parametrize("kind", ["missing", "cut", "empty", "a pickle", "another's", "not finite", "of other shapes"])
def test_a_broken_checkpoint_is_refused_in_one_line(straight, tmp_path, kind):
    path = tmp_path / "last.safetensors"
    run = load_reader_run(straight / "last.safetensors")
    good = (straight / "last.safetensors").read_bytes()
    match kind:
        case "cut" | "empty" | "a pickle":
            path.write_bytes({"cut": good[:-9], "empty": b"", "a pickle": b"\x80\x04."}[kind])
        case "another's":
            write_network(path)
        case "not finite":
            run.tensors["averaged.trust"][0] = float("nan")
            save_reader_run(path, run)
        case "of other shapes":
            run.tensors["averaged.trust"] = torch.zeros(3)
            save_reader_run(path, run)
    one = trainer(tmp_path)
    for use in (lambda: load_reader(path), one.resume):
        with pytest.raises(ModelError) as error:
            use()
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


# train-memory


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_goes_on_to_the_same_weights(network, straight, tmp_path, number):
    before = signal.getsignal(number)

    def interrupt(what: str, done: int, _total: int) -> None:
        if what.startswith("loss") and done == 2:
            os.kill(os.getpid(), number)

    stopped = trained(network, tmp_path / "stopped", interrupt)
    assert (stopped.step, stopped.is_complete, stopped.validation) == (2, False, {})
    assert signal.getsignal(number) is before
    done = trained(network, tmp_path / "stopped", resume=True)
    assert done.is_complete
    assert done.validation["iou"] > 0
    assert_equal(tensors_of(tmp_path / "stopped"), tensors_of(straight))


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from perception.training.propagator import trainer
from perception.training.propagator.command import Request, train_memory

torch.set_num_threads(1)
trainer.SAVE_S = 0  # after each step

def progress(what, done, total):
    if what.startswith("loss") and done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

train_memory(Request(sys.argv[1], Path(sys.argv[2]), {}, 3, 0, settings=trainer.Settings(steps=4, seed=1)), progress)
"""


def test_a_killed_training_goes_on_to_the_same_weights(network, straight, tmp_path):
    write_clips(tmp_path / "killed", 3)
    arguments = [sys.executable, "-c", KILLED, str(network), str(tmp_path / "killed")]
    assert subprocess.run(arguments, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    assert load_reader_run(tmp_path / "killed" / "last.safetensors").step == 2
    assert trained(network, tmp_path / "killed", resume=True).is_complete
    assert_equal(tensors_of(tmp_path / "killed"), tensors_of(straight))


def test_clips_are_made_where_they_are_missing_and_a_stop_between_two_keeps_those_made(network, tmp_path):
    """One pasted clip out of a folder of pictures; Ctrl-C right after it."""
    run = tmp_path / "run"
    write_clips(run, 0)
    pictures = write_pictures(tmp_path / "camvid", 2)

    def interrupt(_what: str, _done: int, _total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    request = Request(str(network), run, {"rendered": pictures}, 0, 3, settings=Settings(steps=1))
    outcome = train_memory(request, interrupt)
    assert (outcome.step, outcome.is_complete) == (0, False)
    assert [path.name for path in (run / "clips").iterdir()] == ["pasted-0000.safetensors"]


def test_clips_that_another_network_saw_are_refused(network, tmp_path):
    """Copied from the folder of another run, as the page says that one may."""
    run = tmp_path / "run"
    write_clips(run, 3)
    for i, seen_by in enumerate((hashlib.sha256(network.read_bytes()).hexdigest(), "", "0" * 64)):
        write_clip(clip_of(walking_ids(8), seed=i), run / "clips" / f"rendered-{i:04d}.safetensors", seen_by)
    with pytest.raises(ModelError, match=r"rendered-0002\.safetensors: another network saw this clip; delete"):
        trained(network, run)


def test_a_run_goes_on_only_with_what_it_was_begun_with(network, straight, tmp_path):
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ConfigError, match=r"holds a run already; go on with --resume"):
        trained(network, tmp_path)
    with pytest.raises(ConfigError, match=r"seed was 1, is 2; go on with what it was, or name another folder"):
        trained(network, tmp_path, resume=True, settings=Settings(steps=STEPS, seed=2))
    with pytest.raises(ConfigError, match=r"rendered was 3, is 2"):
        trained(network, tmp_path, resume=True, rendered=2)
    other = write_network(tmp_path / "other.safetensors", NetworkConfig(width=16))
    with pytest.raises(ConfigError, match=r"network was '[0-9a-f]{64}', is"):
        trained(other, tmp_path, resume=True)
    (tmp_path / "run.json").write_text("[")
    with pytest.raises(ConfigError, match=r"run.json: not what `train-memory` wrote"):
        trained(network, tmp_path, resume=True)


def test_a_folder_in_which_another_training_runs_is_refused(network, straight, tmp_path):
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    with held(tmp_path), pytest.raises(ConfigError, match="another training runs in it"):
        trained(network, tmp_path, resume=True)
    assert trained(network, tmp_path, resume=True).is_complete


def test_what_a_killed_training_left_half_written_is_removed(network, tmp_path):
    write_clips(tmp_path, 3)
    for left in (tmp_path / ".run.json.7.partial", tmp_path / "clips" / ".rendered-0000.safetensors.7.partial"):
        left.write_bytes(b"half")
    assert trained(network, tmp_path, settings=Settings(steps=1, seed=1)).is_complete
    assert not list(tmp_path.rglob("*.partial"))


def test_a_full_disk_leaves_no_note_that_is_cut_off(network, tmp_path):
    write_clips(tmp_path, 3)
    with no_file_beyond(5), pytest.raises(ConfigError, match=r"run\.json: file too large"):
        trained(network, tmp_path)
    assert not (tmp_path / "run.json").exists()
    with no_file_beyond(1000), pytest.raises(SaveError, match="make room and go on with its clips from the start"):
        trained(network, tmp_path, settings=Settings(steps=1, seed=1))


def test_the_memory_of_a_network_with_other_features_has_its_channels(tmp_path):
    channels = (16, 8, 24, 12)
    reader = ReaderTrainer(Settings(), tmp_path, [clip_of(walking_ids(8), channels)], []).reader
    assert reader.channels == channels


def test_bad_input_is_one_line(say, network, tmp_path):  # noqa: F811
    unet = write_network(tmp_path / "unet.safetensors", NetworkConfig("unet", width=8))
    (tmp_path / "file").write_text("")
    few = ("--pasted", 0, "--rendered", 2, "--steps", 1)
    run = ("--run", tmp_path / "run")
    cases = {
        "no such file": ("train-memory", tmp_path / "none.safetensors", *run, *few),
        "a network without keys": ("train-memory", unet, *run, *few),
        "write NAME=FOLDER": ("train-memory", network, *run, "--data", "camvid"),
        "not one of camvid": ("train-memory", network, *run, "--data", f"kitti={tmp_path}"),
        "pasted clips need pictures": ("train-memory", network, *run),
        "2 clips at least": ("train-memory", network, *run, "--pasted", 0, "--rendered", 1),
        "no picture matches": ("train-memory", network, *run, "--data", f"camvid={tmp_path}"),
        "not a directory": ("train-memory", network, "--run", tmp_path / "file", *few),
        "none.safetensors: no such file": (
            "train-memory",
            network,
            *run,
            *few,
            "--start",
            tmp_path / "none.safetensors",
        ),
    }
    for expected, words in cases.items():
        assert expected in refused(say(*words)), expected
    assert not (tmp_path / "run").exists()  # all said before any work was done


def test_train_memory_says_how_it_went(say, network, tmp_path):  # noqa: F811
    write_clips(tmp_path / "run", 3)
    words = ("train-memory", network, "--run", tmp_path / "run", "--rendered", 3, "--pasted", 0, "--steps", 1)
    code, out, err = say(*words)
    assert (code, "Traceback" in err) == (0, False)
    assert f"{tmp_path / 'run'}: step 1 of 1; validation: ce " in out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["rendered"] == 3
    empty = tmp_path / "empty"
    write_clips(empty, 3, objects=0)
    assert "no clip to train on shows any object" in refused(say(*words[:2], "--run", empty, *words[4:]))
