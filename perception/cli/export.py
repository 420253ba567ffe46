"""export: a training run becomes a graph that the node runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception.cli import app
from perception.errors import PerceptionError


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    out: Annotated[Path, typer.Argument(help="The .onnx file to write; its card goes beside it.")],
    width: Annotated[int, typer.Option(min=32, max=4096)] = 640,
    height: Annotated[int, typer.Option(min=32, max=4096)] = 360,
    description: Annotated[str, typer.Option(help="One line for `perception models`.")] = "",
    data: Annotated[str, typer.Option(help="What it was trained on.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the weights and their data.")] = "",
    int8: Annotated[
        list[Path] | None, typer.Option(help="Quantise to int8, calibrated on the pictures in this folder.")
    ] = None,
) -> None:
    """Write a training run's averaged network as one graph from camera bytes to class indices, with its card."""
    try:
        from perception.training.export import export as write
        from perception.training.export import export_int8
    except ImportError as error:
        raise PerceptionError(
            f"export needs more packages ({error.name}): pip install 'perception-node[train]'"
        ) from None
    about = {"description": description, "data": data, "licence": licence}
    if int8:
        export_int8(run / "last.pt", out, width, height, about, {}, int8)
    else:
        write(run / "last.pt", out, width, height, about, {})
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB) and {out.with_suffix('.toml').name}")
