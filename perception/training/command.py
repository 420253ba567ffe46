"""`perception train` as one function."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import msgspec
import torch

from perception.errors import ConfigError, reason
from perception.training.checkpoint import shipped_or
from perception.training.config import VALIDATION, TrainingConfig, check_rules, read_training_config
from perception.training.interruption import interruption
from perception.training.records import LOG
from perception.training.run_folder import held
from perception.training.saving import BEST, LAST
from perception.training.sheet import write_sheet
from perception.training.trainer import Progress, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What the command line says beside the configuration; None and empty: as that has it."""

    config: str
    run: Path | None = None
    resume: bool = False
    seed: int | None = None
    steps: int | None = None
    device: str = "auto"
    folders: Mapping[str, Path] = field(default_factory=dict)  # by data set, or "validation"
    without: Sequence[str] = ()  # data sets to leave out
    start: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: Path
    step: int
    steps: int
    best: float | None  # validation mIoU of best.safetensors

    @property
    def is_complete(self) -> bool:
        return self.step >= self.steps


def train_command(request: Request, progress: Progress) -> Outcome:
    """Train as a configuration says, from the start or from where a run stopped, until done or interrupted.

    Raises:
        PerceptionError: a configuration, data set, checkpoint or weight file is missing or wrong, the run's folder
            holds another run or another training runs in it, or the disk is full.
    """
    config, base = configured(request)
    run = run_folder(request)
    with ExitStack() as stack:
        is_new = not run.is_dir()  # then it is made, and held, when all is found to be right
        if not is_new:
            stack.enter_context(held(run))
        goes_on = _goes_on(run, request.resume)
        trainer = Trainer(config, base, run, open_device(request.device, config))
        if goes_on:
            trainer.resume()
        else:
            trainer.try_sizes()
            trainer.start()
            trainer.check(progress)
        if is_new:
            stack.enter_context(held(run))
            _goes_on(run, resume=False)  # another training may have been here meanwhile
        if not goes_on:
            _set_log_aside(run)
        with interruption() as asked_to_stop:
            trainer.train(progress, asked_to_stop)
        return Outcome(run, trainer.step, config.steps, trainer.best.kept if (run / BEST).exists() else None)


def _goes_on(run: Path, resume: bool) -> bool:
    """Whether the folder holds a run to go on with. A log alone is of one that was killed before its first checkpoint.

    Raises:
        ConfigError: it holds one that is not to be resumed, or the rest of one that can't be.
    """
    found = next((name for name in (LAST, BEST, LOG) if (run / name).exists()), None)
    if found == BEST:
        raise ConfigError(
            f"{run}: holds a run's {BEST} but no {LAST} to go on from; begin another with --run FOLDER --start "
            f"{run / BEST}"
        )
    if found == LOG and not resume:
        raise ConfigError(
            f"{run}: holds a run's {LOG} but no {LAST} to go on from; begin another with --run FOLDER, or anew here "
            f"with --resume, which keeps the log as {LOG}.before"
        )
    if found and not resume:
        raise ConfigError(f"{run}: holds a run already; go on with --resume, or name another folder with --run")
    return found == LAST


def _set_log_aside(run: Path) -> None:
    """Keep the log of a run that has no checkpoint, beside earlier ones; raises ConfigError where it can't be done."""
    if not (run / LOG).exists():
        return
    names = (f"{LOG}.before{i or ''}" for i in count())
    kept = next(run / name for name in names if not (run / name).exists())
    try:
        (run / LOG).rename(kept)
    except OSError as error:
        raise ConfigError(f"{run / LOG}: can't be kept as {kept.name}: {reason(error)}") from None
    log.warning("%s: no checkpoint to go on from; the run begins anew, the log of before is %s", run, kept.name)


def check_command(request: Request, sheet: Path, progress: Progress) -> dict[str, int]:
    """Do all that training does before its first step, and draw one batch; how many samples each data set has.

    Raises:
        PerceptionError: as `train_command`, but for a run that is in the folder already.
    """
    config, base = configured(request)
    run = run_folder(request)
    goes_on = request.resume and _goes_on(run, resume=True)
    trainer = Trainer(config, base, run, open_device(request.device, config))
    if not goes_on:  # a run has its sizes, which stay what they were
        trainer.try_sizes()
    trainer.check(progress)  # before the start weights, which may need a batch: it counts all wrong files
    if goes_on:
        trainer.resume()
    else:
        trainer.start()
    write_sheet(sheet, list(trainer.mixture.samples(0)), config.classes)
    counts = {dataset.name: len(dataset) for dataset in trainer.mixture.datasets}
    return counts | ({VALIDATION: len(trainer.validation)} if trainer.validation else {})


def run_folder(request: Request) -> Path:
    """Where the run's files are."""
    return request.run or Path("runs") / Path(request.config).stem


def configured(request: Request) -> tuple[TrainingConfig, Path]:
    """The configuration with what the command line says otherwise, and where its relative paths start.

    Raises:
        ConfigError: a name on the command line is not a data set of it, or none is left.
    """
    config, base = read_training_config(request.config)
    replace = msgspec.structs.replace
    data, validation = dict(config.data), config.validation
    known = [*data, *([VALIDATION] if validation else [])]
    for name in [*request.folders, *request.without]:
        if name not in known:
            raise ConfigError(f"{request.config}: no data set {name!r}; it has {', '.join(known)}")
    for name, folder in request.folders.items():
        if name == VALIDATION and validation:
            validation = replace(validation, folder=str(folder.absolute()))
        else:
            data[name] = replace(data[name], folder=str(folder.absolute()))
    data = {name: d for name, d in data.items() if name not in request.without}
    if not data:
        raise ConfigError(f"{request.config}: no data set is left to train on")
    validation = None if VALIDATION in request.without else validation
    start = str(shipped_or(request.start)) if request.start else None
    changes = {"seed": request.seed, "steps": request.steps, "start": start}
    config = replace(config, data=data, validation=validation)
    check_rules(config, request.config)
    return replace(config, **{key: value for key, value in changes.items() if value is not None}), base


def open_device(name: str, config: TrainingConfig) -> torch.device:
    """`auto` is a GPU where there is one. Raises ConfigError for a device or precision that this machine lacks."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {name!r} is not one of auto, cpu, cuda")
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ConfigError("device 'cuda': no GPU that PyTorch can use; leave --device out to train on the CPU")
    device = torch.device("cuda" if has_gpu and name != "cpu" else "cpu")
    if config.precision == "float16" and device.type == "cpu":
        raise ConfigError("precision 'float16' needs a GPU; write 'bfloat16' or 'float32' for a CPU")
    if config.precision == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("precision 'bfloat16': this GPU can't; write 'float16'")
    if device.type == "cuda" and config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it to sum in a fixed order
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device
