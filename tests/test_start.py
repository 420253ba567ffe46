"""What a network takes over from a checkpoint of other classes."""

from __future__ import annotations

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.training.checkpoint import AVERAGED, About, save_checkpoint  # noqa: E402
from perception.training.config import TrainingConfig, read_training_config  # noqa: E402
from perception.training.networks import NetworkConfig, build_network  # noqa: E402
from perception.training.start import start_from  # noqa: E402

KINDS = {
    "realtime": NetworkConfig("realtime", width=16),
    "panoptic-deeplab": NetworkConfig("panoptic-deeplab", width=16),
    "deeplabv3+": NetworkConfig("deeplabv3+", width=16),
    "deeplabv3": NetworkConfig("deeplabv3", "resnet", width=16),
    "unet": NetworkConfig("unet", width=8),
}


def named(network: NetworkConfig, classes: int, first: str = "c") -> TrainingConfig:
    config, _ = read_training_config("road")
    names = tuple(f"{first}{i}" for i in range(classes))
    return msgspec.structs.replace(config, network=network, classes=names, things=())


def started(tmp_path, theirs: TrainingConfig, ours: TrainingConfig):
    """A network of `ours` begun with one of `theirs`: what it was, what they had, what it became."""
    source = build_network(theirs.network, len(theirs.classes)).state_dict()
    about = About(network=theirs.network, classes=theirs.classes)
    save_checkpoint(tmp_path / "w.safetensors", {AVERAGED + name: t for name, t in source.items()}, about)
    network = build_network(ours.network, len(ours.classes))
    before = {name: t.clone() for name, t in network.state_dict().items()}
    start_from(network, tmp_path / "w.safetensors", ours, torch.zeros(1, 3, 64, 64))
    return before, source, network.state_dict()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 3, 16, 32, 255])
def test_only_layers_that_count_classes_begin_anew(tmp_path, kind, classes):
    _, source, after = started(tmp_path, named(KINDS[kind], 12), named(KINDS[kind], classes))
    for name, tensor in after.items():
        if tensor.shape == source[name].shape:
            assert torch.equal(tensor, source[name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [3, 255])
def test_layers_that_count_other_classes_begin_anew_though_their_shapes_fit(tmp_path, kind, classes):
    config = KINDS[kind]
    before, source, after = started(tmp_path, named(config, classes), named(config, classes, "other"))
    anew = {name for name in after if not torch.equal(after[name], source[name])}
    assert anew
    assert all(classes in after[name].shape and torch.equal(after[name], before[name]) for name in anew)


def test_the_same_classes_take_everything_over(tmp_path):
    config = named(KINDS["realtime"], 3)
    _, source, after = started(tmp_path, config, config)
    assert all(torch.equal(after[name], source[name]) for name in source)


def test_looking_at_the_classes_draws_no_random_number(tmp_path):
    config = named(KINDS["realtime"], 3)
    source = build_network(config.network, 12)
    about = About(network=config.network, classes=tuple(map(str, range(12))))
    tensors = {AVERAGED + name: t for name, t in source.state_dict().items()}
    save_checkpoint(tmp_path / "w.safetensors", tensors, about)
    network = build_network(config.network, 3)
    state = torch.get_rng_state()
    start_from(network, tmp_path / "w.safetensors", config, torch.zeros(1, 3, 64, 64))
    assert torch.equal(state, torch.get_rng_state())
