"""Checkpoints of the memory reader: safetensors, replaced in one step, never unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from perception.errors import ModelError
from perception.training.checkpoint import AVERAGED, part, restore, write_whole
from perception.training.networks.memory import MemoryReader

FORMAT = "perception-memory-1"
ROAD_CHANNELS = "96,128,32,24"  # of the road network's features: of checkpoints that don't say


class ReaderRun(NamedTuple):
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]
    step: int
    channels: tuple[int, int, int, int]  # of keys, context, fine8 and fine4


def save_reader_run(path: Path, run: ReaderRun) -> None:
    """Raises SaveError where it can't be written."""
    channels = ",".join(map(str, run.channels))
    write_whole(path, run.tensors, {"format": FORMAT, "step": str(run.step), "channels": channels})


def load_reader_run(path: Path) -> ReaderRun:
    """Raises ModelError where the file is missing, cut short or not one of these."""
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ModelError(f"{path}: not a checkpoint of `perception train-memory`")
            keys, context, fine8, fine4 = (int(n) for n in metadata.get("channels", ROAD_CHANNELS).split(","))
            tensors = {name: f.get_tensor(name).clone() for name in f.keys()}  # noqa: SIM118  # not a mapping
            return ReaderRun(tensors, int(metadata["step"]), (keys, context, fine8, fine4))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; give a checkpoint of `perception train-memory`") from None
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path}: not a whole checkpoint of `perception train-memory` ({reason})") from None


def load_reader(path: Path) -> MemoryReader:
    """The reader with its averaged weights, in evaluation mode.

    Raises:
        ModelError: as `load_reader_run`, or its weights are not those of this version's reader, or not finite.
    """
    run = load_reader_run(path)
    reader = MemoryReader(run.channels)
    restore(reader, part(run.tensors, AVERAGED), path)
    return reader.eval()
