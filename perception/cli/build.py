"""build, selftest: engines before a vehicle needs them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from perception.cli import app
from perception.cli.progress import lines_of, progress_bar
from perception.config import Launch, ModelConfig, TrackingConfig, read_launch
from perception.errors import ConfigError
from perception.strict_toml import check as checked

if TYPE_CHECKING:
    from perception.models.precision_loss import PrecisionLoss
    from perception.serving.report import Report


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="A shipped model's name, an .onnx file, or a launch file (.toml).")],
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16, int8 or fp8; else the launch file's, fp16.")] = "",
    size: Annotated[str, typer.Option(help="Width x height of the camera's frames.")] = "1280x720",
    network_every: Annotated[int, typer.Option(min=0, help="As the launch file will say it; 0: as it does.")] = 0,
    tracking: Annotated[str, typer.Option(help="auto, iou, affinity or memory, as the launch file will say it.")] = "",
    cache: Annotated[Path | None, typer.Option(help="Folder of compiled engines; else the user's cache.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Build though it is there; forgives crashes.")] = False,
    calibrate: Annotated[Path | None, typer.Option(help="int8 and fp8: a folder of this camera's pictures.")] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(help="Measure the loss on this folder's images/ and labels/; else against fp32."),
    ] = None,
    max_loss: Annotated[float | None, typer.Option(help="Refuse what loses more: points of mean IoU.")] = None,
    max_class_loss: Annotated[float | None, typer.Option(help="The same, of any one class.")] = None,
) -> None:
    """Compile a model for this machine's accelerator, hold it against the reference, and keep it for the node.

    The node builds what it lacks by itself, and serves meanwhile; this is for before the first drive.
    """
    from perception.prepare import Wishes, prepare

    launch = read_launch(Path(model)) if model.endswith(".toml") else Launch(version=1, model=ModelConfig(path=model))
    wishes = Wishes(_size(size), again, calibrate, labelled, max_loss, max_class_loss)
    asked = {"precision": precision, "network_every": network_every, "cache": str(cache.absolute()) if cache else ""}
    launch = _with(launch, asked, tracking)
    measured: list[PrecisionLoss] = []
    try:
        with progress_bar() as bar:
            done = prepare(launch, wishes, lines_of(bar), measured=measured.append)
        print(done.report.text(), end="")
    finally:  # what is refused for its loss shows it, too
        for loss in measured:
            Console().print(loss_table(loss))
    for part, (folder, manifest) in done.plans.items():
        print(f"{part}: {folder} ({manifest.size / 1e6:.1f} MB, built in {manifest.took_s:.1f} s)")


@app.command()
def selftest(
    model: Annotated[str, typer.Argument(help="A shipped model's name or an .onnx file.")] = "road",
) -> None:
    """Hold this CPU's engines against the reference and time them; `engine = "auto"` takes the fastest from then on."""
    from perception.prepare import selftest as run

    with progress_bar() as bar:
        reports = run(model, lines_of(bar))
    table = Table("engine", "a frame", "equal labels", "", box=None)
    for report in reports:
        table.add_row(*_row(report))
    Console().print(table)
    good = [report for report in reports if report.passed]
    if good:
        print(f"auto takes {min(good, key=lambda report: report.step_ms).engine} from now on")


def _row(report: Report) -> tuple[str, str, str, str]:
    word = "agrees" if report.passed else "; ".join(report.failures)
    return report.engine, f"{report.step_ms:.1f} ms", f"{100 * report.equal:.2f} %", word


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{2,5})x(\d{2,5})", text)
    if not found:
        raise ConfigError(f"--size {text!r}: write width x height, as 1280x720")
    return int(found[1]), int(found[2])


def _with(launch: Launch, asked: dict[str, Any], tracking: str) -> Launch:
    """What the options say in the launch file's place; raises ConfigError for what it may not say."""
    model = msgspec.to_builtins(launch.model) | {name: value for name, value in asked.items() if value}
    told = msgspec.to_builtins(launch.tracking) | ({"kind": tracking} if tracking else {})
    return msgspec.structs.replace(
        launch, model=checked(model, ModelConfig, "perception build"), tracking=checked(told, TrackingConfig, "build")
    )


def loss_table(loss: PrecisionLoss) -> Table:
    """IoU by class in float32 and of what was built, and what is lost [points]."""
    table = Table("IoU on labels" if loss.has_truth else "IoU with fp32", "fp32", "built", "loss", box=None)
    for name, before, after, points in loss.rows():
        table.add_row(name, f"{before:.2f}", f"{after:.2f}", f"{points:.2f}")
    table.add_row("mean", "", "", f"{loss.mean:.2f}", style="bold")
    return table
