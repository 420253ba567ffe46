from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.errors import ConfigError  # noqa: E402
from perception.training.config import read_training_config, shipped_configs  # noqa: E402
from perception.training.label_set import Codes, read_label_set  # noqa: E402
from perception.training.networks import check  # noqa: E402
from perception.training.objective import Objective  # noqa: E402
from tests.training_fakes import CONFIG  # noqa: E402
from tests.training_runs import REALTIME, trained, validated  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


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
