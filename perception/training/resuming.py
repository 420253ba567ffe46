"""Whether a checkpoint is of the run that a configuration describes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from perception.errors import ConfigError
from perception.training.checkpoint import About
from perception.training.config import TrainingConfig

log = logging.getLogger(__name__)

# Keys that may change when a run goes on: none of them changes what it computes.
FREE = {"start", "workers", "cache_mb", "log_steps", "validation.folder", "teacher.checkpoint"}


def require_same_run(
    path: Path, about: About, config: TrainingConfig, samples: Mapping[str, int], meanings: Mapping[str, str]
) -> None:
    """Raise ConfigError naming the first key or data set that differs from when `path` was written.

    What a checkpoint of an older version does not say is taken to be as it was.

    Args:
        samples: how many each data set has now.
        meanings: `Codes.fingerprint` of each data set's label set now.
    """
    before, now = _flat(_completed(about.config)), _flat(msgspec.to_builtins(config))
    for key in [*now, *(k for k in before if k not in now)]:
        is_free = key in FREE or key.startswith("checkpoint.") or (key.startswith("data.") and key.endswith(".folder"))
        if not is_free and before.get(key) != now.get(key) and not _is_longer(key, before, now):
            raise ConfigError(
                f"{path}: {key} was {_shown(before, key)}, is {_shown(now, key)}; go on with what it was, or begin "
                f"another run that starts from it with --start {path}"
            )
    order = list(about.config.get("data", {}))
    if order != list(config.data):  # batches and random numbers follow it
        raise ConfigError(f"{path}: the tables [data.*] were in the order {', '.join(order)}; bring it back")
    for name, meaning in meanings.items():
        if about.state.get("meanings", {}).get(name, meaning) != meaning:
            raise ConfigError(
                f"{path}: the label set of data set {name!r} has changed: its values can be other classes; bring back "
                f"what it was, or begin another run that starts from it with --start {path}"
            )
    for name, count in samples.items():
        was = about.state.get("samples", {}).get(name, count)
        if was != count:
            raise ConfigError(f"{path}: data set {name!r} had {was} samples, has {count}; bring the others back")


def warn_of_changes(path: Path, about: About, config: TrainingConfig) -> None:
    """Say what the run learns otherwise from here on than the version that wrote `path` did."""
    if config.has_instances and "meanings" not in about.state:  # that version noted none
        log.warning(
            "%s: of an earlier version: from step %d on ignored pixels and those beyond the pictures teach no centres",
            path,
            about.step,
        )


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of keys that came into being since: a new key's default changes nothing."""
    try:
        return msgspec.to_builtins(msgspec.convert(config, TrainingConfig))
    except msgspec.ValidationError:  # a key of it is no more; it is named by comparing
        return config


def _is_longer(key: str, before: Mapping[str, object], now: Mapping[str, object]) -> bool:
    """A constant learning rate does not depend on how long the run is."""
    return key == "steps" and now.get("optimizer.schedule") == "constant" == before.get("optimizer.schedule")


def _shown(values: Mapping[str, object], key: str) -> str:
    return repr(values[key]) if key in values else "not there"


def _flat(table: Mapping[str, object], beginning: str = "") -> dict[str, object]:
    """Nested tables as one, keys joined by dots; tuples as lists, as JSON has them."""
    out: dict[str, object] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{beginning}{name}.")
        else:
            out[beginning + name] = list(value) if isinstance(value, tuple) else value
    return out
