from __future__ import annotations

import pickle
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from safetensors.torch import save_file  # noqa: E402

from perception.errors import ModelError  # noqa: E402
from perception.training.checkpoint import (  # noqa: E402
    About,
    SaveError,
    load_checkpoint,
    load_network,
    save_checkpoint,
)
from perception.training.networks import build_network  # noqa: E402
from perception.training.networks.config import NetworkConfig  # noqa: E402
from tests.training_fakes import no_file_beyond  # noqa: E402

ABOUT = About(
    network=NetworkConfig(kind="unet", width=8), classes=("road", "car"), things=("car",), step=7, state={"norm": 0.1}
)


def tensors():
    torch.manual_seed(0)
    network = build_network(ABOUT.network, len(ABOUT.classes))
    return {f"averaged.{name}": tensor for name, tensor in network.state_dict().items()}


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    saved = tensors() | {
        "scalar": torch.tensor(3.5),
        "last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    }
    save_checkpoint(tmp_path / "a.safetensors", saved, ABOUT)
    loaded, about = load_checkpoint(tmp_path / "a.safetensors")
    assert about == ABOUT
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_saving_leaves_nothing_beside_the_file(tmp_path):
    for _ in range(2):
        save_checkpoint(tmp_path / "a.safetensors", tensors(), ABOUT)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"x": torch.ones(3)}, ABOUT)
    with no_file_beyond(50_000), pytest.raises(SaveError, match=r"a\.safetensors: .* MB can't be written"):
        save_checkpoint(path, tensors(), ABOUT)
    assert torch.equal(load_checkpoint(path)[0]["x"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SaveError, match="no such file or directory"):
        save_checkpoint(tmp_path / "none" / "a.safetensors", tensors(), ABOUT)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def cut_short(path: Path) -> None:
    save_checkpoint(path, tensors(), ABOUT)
    path.write_bytes(path.read_bytes()[:-1000])


def foreign(path: Path) -> None:
    save_file({"x": torch.ones(2)}, path)


def strange_words(path: Path) -> None:
    save_file({"x": torch.ones(2)}, path, {"format": "perception-training-1", "about": '{"network": {"kind": "gpt"}}'})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(pickle.dumps(Bomb())), "not a whole checkpoint"),
        (lambda path: torch.save({"x": 1}, path), "not a whole checkpoint"),
        (lambda path: path.write_bytes(b""), "not a whole checkpoint"),
        (cut_short, "not a whole checkpoint"),
        (foreign, "not a checkpoint of"),
        (strange_words, "not a whole checkpoint"),
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "not a whole checkpoint"),
    ],
    ids=["pickle", "torch", "empty", "cut", "foreign", "words", "missing", "folder"],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, monkeypatch, spoil, says):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.safetensors"
    spoil(path)
    with pytest.raises(ModelError, match=says) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not Path("exploded").exists()


def test_a_network_comes_back_with_its_averaged_weights(tmp_path):
    saved = tensors()
    other = {name.replace("averaged", "network"): tensor + 1 for name, tensor in saved.items()}
    save_checkpoint(tmp_path / "a.safetensors", saved | other, ABOUT)
    network, about = load_network(tmp_path / "a.safetensors")
    assert not network.training
    assert about.classes == ("road", "car")
    assert all(torch.equal(saved[f"averaged.{name}"], t) for name, t in network.state_dict().items())


def spoilt(change):
    saved = tensors()
    change(saved)
    return saved


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("averaged.head.bias"), "head.bias"),
        (lambda t: t.update({"averaged.head.bias": torch.zeros(9)}), "head.bias"),
        (lambda t: t["averaged.head.bias"].fill_(float("nan")), "not a number"),
    ],
)
def test_tensors_that_are_not_the_networks_are_refused(tmp_path, change, says):
    save_checkpoint(tmp_path / "a.safetensors", spoilt(change), ABOUT)
    with pytest.raises(ModelError, match=says):
        load_network(tmp_path / "a.safetensors")
