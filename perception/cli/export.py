"""export: a training run becomes a graph that the node runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from perception.cli import app
from perception.cli.progress import lines_of, progress_bar
from perception.errors import ConfigError, PerceptionError

if TYPE_CHECKING:
    from perception.training.parity import Agreement, Loss


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file of `train`, or road.")],
    out: Annotated[Path, typer.Argument(help="The .onnx file to write; its card and encoder go beside it.")],
    width: Annotated[int, typer.Option(min=32, max=4096, help="Of the graph's input; a multiple of 16.")] = 640,
    height: Annotated[int, typer.Option(min=32, max=4096, help="Of the graph's input; a multiple of 16.")] = 352,
    int8: Annotated[list[Path] | None, typer.Option(help="Quantise, calibrated on this folder's pictures.")] = None,
    bfloat16: Annotated[
        list[Path] | None,
        typer.Option(help="Round the weights to bfloat16; biases make up for it, on this folder's pictures."),
    ] = None,
    parity: Annotated[
        Path | None, typer.Option(help="Compare with PyTorch on this folder's pictures; else on rendered frames.")
    ] = None,
    labelled: Annotated[
        Path | None, typer.Option(help="Measure the loss on this folder's images/ and labels/.")
    ] = None,
    max_loss: Annotated[float, typer.Option(min=0, max=100, help="Refuse what loses more: points of mIoU.")] = 0.7,
    max_class_loss: Annotated[float, typer.Option(min=0, max=100, help="The same, of any one class.")] = 3.0,
    description: Annotated[str, typer.Option(help="One line for `perception models`.")] = "",
    data: Annotated[str, typer.Option(help="What it was trained on.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the weights and their data.")] = "",
    figure: Annotated[list[str] | None, typer.Option(help="For the card: 'what=value'; repeat.")] = None,
) -> None:
    """Write a checkpoint's averaged network as one graph from camera bytes to masks, with its card, and measure it."""
    try:
        from perception.training.export import ExportSettings
        from perception.training.export import export as write
    except ImportError as error:
        raise PerceptionError(
            f"export needs more packages ({error.name}): pip install 'perception-node[train]'"
        ) from None
    texts = {"description": description, "data": data, "licence": licence}
    if int8 and bfloat16:
        raise ConfigError("--int8 and --bfloat16: choose one; what int8 leaves in float is rounded to bfloat16 anyway")
    rounding = tuple(int8 or ()), tuple(bfloat16 or ())
    settings = ExportSettings(
        width, height, texts, _figures(figure or []), *rounding, parity, labelled, max_loss, max_class_loss
    )
    with progress_bar() as bar:
        report = write(checkpoint, out, settings, lines_of(bar))
    console = Console()
    console.print(agreement_table(report.agreements, report.classes))
    if report.losses:
        console.print(loss_table(report.losses))
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB) and {out.with_suffix('.toml').name}")


def _figures(pairs: list[str]) -> dict[str, str]:
    split = [pair.partition("=") for pair in pairs]
    wrong = next((pair for pair, parts in zip(pairs, split, strict=True) if not parts[0] or not parts[2]), None)
    if wrong is not None:
        raise ConfigError(f"--figure {wrong!r}: write 'what=value'")
    return {what: value for what, _, value in split}


def agreement_table(agreements: tuple[Agreement, ...], classes: tuple[str, ...]) -> Table:
    """Each graph and engine against PyTorch: equal labels, greatest differences, IoU by class."""
    table = Table("against PyTorch", *(f"{a.graph} {a.engine}" for a in agreements), box=None)
    table.add_row("equal labels %", *(f"{100 * a.equal:.3f}" for a in agreements), style="bold")
    if any(a.heat is not None for a in agreements):
        table.add_row("greatest |centre|", *("" if a.heat is None else f"{a.heat:.5f}" for a in agreements))
        table.add_row("greatest |offset| px", *("" if a.offset is None else f"{a.offset:.3f}" for a in agreements))
    for name in agreements[0].cosine:
        table.add_row(f"cosine of {name}", *(f"{a.cosine[name]:.5f}" for a in agreements))
    for i, name in enumerate(classes):
        table.add_row(f"IoU {name}", *(percent(a.iou[i]) for a in agreements))
    return table


def loss_table(losses: tuple[Loss, ...]) -> Table:
    """IoU by class on labelled pictures: PyTorch, each engine, and what it loses."""
    heads = (head for loss in losses for head in (f"{loss.graph} {loss.engine}", "loss"))
    table = Table("IoU on labels", "PyTorch", *heads, box=None)
    before = losses[0].before
    for i, name in enumerate(losses[0].classes):
        after = (cell for x in losses for cell in (percent(x.after[i]), f"{x.points[i]:.2f}".replace("nan", "")))
        table.add_row(name, percent(before[i]), *after)
    means = (cell for x in losses for cell in (percent(x.mean_after), f"{x.loss:.2f}"))
    table.add_row("mean", percent(losses[0].mean_before), *means, style="bold")
    return table


def percent(share: float) -> str:
    return "absent" if math.isnan(share) else f"{100 * share:.2f}"
