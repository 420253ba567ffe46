"""check, doctor, models, keys, bench: what is there, and is it right."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from perception.cli import app
from perception.cli.engine_help import ENGINE_HELP
from perception.errors import ConfigError

COLOURS = {"ok": "green", "note": "yellow", "wrong": "red"}


@app.command()
def check(
    launch_file: Annotated[Path, typer.Argument(help="A TOML launch file.", show_default=False)],
) -> None:
    """Say whether a node can start from a launch file, without opening its camera or its sockets."""
    from perception.build import preflight
    from perception.config import read_launch
    from perception.doctor import has_accelerator

    found = preflight(read_launch(launch_file))
    checked, engine = found.checked, found.checked.launch.model.engine
    is_there, missing = has_accelerator(engine)
    if found.is_pinned and not is_there:
        raise ConfigError(
            f"model.engine: {engine} is not here, and a recording to be repeated takes no other: {missing}"
        )
    topics = ", ".join(f"{checked.launch.camera}/{spec.name}" for spec in checked.topics)
    print(f"{launch_file}: good")
    waits = f": {found.absent} is not here now; the node would wait for it" if found.absent else ""
    print(f"  source  {found.source}{waits}")
    print(f"  model   {checked.files.name} ({checked.files.identity})")
    print(f"  topics  {topics}")
    print(f"  engine  {engine}" + ("" if is_there else f": not here: {missing}; the CPU would serve, as degraded"))
    print(f"  on      {', '.join(checked.launch.publish.endpoints)}{' (CURVE)' if checked.curve else ''}")


@app.command()
def doctor(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port that the node would use; 0: any.")] = 5601,
) -> None:
    """What this machine can run: engines, cameras, ports, GPU; and the fix for each thing that is missing."""
    from perception.doctor import examine

    console = Console()
    wrong = 0
    for finding in examine(port):
        wrong += finding.level == "wrong"
        colour = COLOURS[finding.level]
        console.print(f"[{colour}]{finding.level:5}[/] {finding.topic:9}", end="", highlight=False)
        console.print(finding.what, markup=False, highlight=False)
        if finding.fix:
            console.print(f"{'':15}fix: {finding.fix}", markup=False, highlight=False)
    raise typer.Exit(1 if wrong else 0)


@app.command()
def models(
    model: Annotated[str, typer.Argument(help="A shipped model's name or an .onnx file; empty lists all.")] = "",
) -> None:
    """List the shipped models, or describe one: its input, classes, topics, data, licence and figures."""
    from perception.models.card import find, shipped

    console = Console()
    if not model:
        for name in shipped():
            card = find(name).card
            console.print(f"{name:12} {card.input.width}x{card.input.height}  {card.description}", highlight=False)
        return
    files = find(model)
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in files.card.facts(files).items():
        table.add_row(key, value)
    console.print(table, highlight=False, markup=False)


@app.command()
def keys(
    directory: Annotated[Path, typer.Argument(help="Folder for the key files; made if it is not there.")],
    name: Annotated[str, typer.Argument(help="Name of the pair: server, or the client's name.")],
) -> None:
    """Make a CURVE key pair: NAME.secret (0600, stays where it is) and NAME.public (goes to the other side)."""
    from perception.keys import make_keys

    public, secret = make_keys(directory, name)
    print(f"{secret}  keep it here, readable by this user only")
    print(f"{public}  give it to the other side (a client's goes into the node's clients folder)")


class Part(StrEnum):
    """What `perception bench` can measure."""

    NODE = "node"
    WIRE = "wire"
    PROPAGATOR = "propagator"
    START = "start"
    SUBSCRIBER = "subscriber"
    RECORDING = "recording"
    REPLAY = "replay"
    VIEW = "view"
    VIEW_SOAK = "view-soak"
    SOAK = "soak"


@app.command()
def bench(
    parts: Annotated[
        list[Part] | None, typer.Argument(help="What to measure; node, wire and start by default.")
    ] = None,
    drive: Annotated[str, typer.Option(help="A video or a folder of pictures; empty: a rendered drive.")] = "",
    seconds: Annotated[float, typer.Option(min=1, help="How long the node and others run.")] = 20.0,
    model: Annotated[str, typer.Option(help="A shipped model's name or an .onnx file.")] = "road",
    engine: Annotated[str, typer.Option(help=ENGINE_HELP)] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="Worker threads of the engine; 0: all cores.")] = 0,
    fps: Annotated[float, typer.Option(min=1, help="Rate of the simulated camera.")] = 30.0,
    network_every: Annotated[int, typer.Option(min=1, help="The network looks at every n-th frame.")] = 1,
    tracking: Annotated[str, typer.Option(help="auto, iou, affinity or memory; propagator measures all.")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure the node under a fixed-rate camera, wire, propagators, start-up, a slow subscriber, what
    recording costs, how fast a drive is replayed, how late the live view is and what it costs, a long run."""
    from perception.bench.run import run_bench
    from perception.bench.settings import BenchSettings

    if {Part.VIEW, Part.VIEW_SOAK} & set(parts or ()):
        from perception.cli.view import require_aiohttp

        require_aiohttp()
    settings = BenchSettings(drive, seconds, model, engine, threads, fps, network_every, tracking)
    console = Console(stderr=True)
    with console.status("measuring") as status:
        figures = run_bench(parts or [Part.NODE, Part.WIRE, Part.START], settings, status.update)
    Console().print(figures.shown())
    if json_file:
        figures.write(json_file)
