"""What `perception replay --mode` does: a drive gone through without sockets, as fast as possible."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from perception.cli.progress import lines_of, progress_bar
from perception.errors import ConfigError, PerceptionError

if TYPE_CHECKING:
    from perception.config import Launch
    from perception.replay.unit import Replayed, Wishes
    from perception.replay.what_if import MachineSpeed

MODES = ("exact", "re-enacted", "what-if")


@dataclass(frozen=True)
class Wished:
    """The options of the command, as they were given."""

    mode: str
    begin_s: float
    end_s: float | None
    network_every: int | None
    slower: float
    network_ms: float | None
    carry_ms: float | None
    camera_every: int

    @property
    def is_what_if(self) -> bool:
        return self.mode == "what-if"

    def checked(self) -> Wishes:
        """As a replay takes them. Raises ConfigError for options that mean nothing together."""
        from perception.replay.unit import Wishes
        from perception.replay.what_if import Policy

        speed = _speed(self.network_ms, self.carry_ms)
        if self.end_s is not None and self.end_s <= self.begin_s:
            raise ConfigError(f"--to {self.end_s:g} is not after --from {self.begin_s:g}")
        if not self.is_what_if and (self.slower != 1.0 or speed or self.camera_every != 1):
            raise ConfigError("--slower, --network-ms, --carry-ms, --camera-every: say --mode what-if too")
        if self.mode == "re-enacted" and self.network_every:
            raise ConfigError("--network-every: re-enacted, the network looks where it did: say --mode what-if")
        match self.mode:
            case "exact" | "re-enacted":
                return Wishes(self.mode, self.begin_s, self.end_s)
            case "what-if":
                policy = Policy(self.network_every or 1, self.camera_every)
                is_other = self.network_every or self.camera_every != 1
                return Wishes("what-if", self.begin_s, self.end_s, policy if is_other else None, speed, self.slower)
        raise ConfigError(f"--mode {self.mode}: one of {', '.join(MODES)}")


def _speed(network_ms: float | None, carry_ms: float | None) -> MachineSpeed | None:
    from perception.replay.what_if import MachineSpeed

    if network_ms is None:
        if carry_ms is not None:
            raise ConfigError("--carry-ms needs --network-ms beside it: the time of a frame that the network looks at")
        return None
    return MachineSpeed((round(network_ms * 1e6),), () if carry_ms is None else (round(carry_ms * 1e6),))


def replay_offline(drive: str, launch: Launch | None, out: Path | None, wished: Wished) -> None:
    """Replay, say what came of it; exit code 1 where a re-enacted drive does not say the same again."""
    from perception.replay.unit import replay_drive

    wishes = wished.checked()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_telling_what_is_left(out))
        progress = lines_of(stack.enter_context(progress_bar()))
        done = replay_drive(drive, launch, out, wishes, progress=lambda n, total: progress(wishes.mode, n, total))
    console = Console()
    for line in lines(done, out):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(_stages(done))
    if done.sameness and not done.sameness.is_same:
        raise typer.Exit(1)


@contextlib.contextmanager
def _telling_what_is_left(out: Path | None) -> Iterator[None]:
    """However it ends before its end, a part of a result is not left behind in silence."""
    was_there = out is None or out.exists()
    try:
        yield
    except (KeyboardInterrupt, PerceptionError):
        if out and not was_there and out.exists():
            print(f"perception: {out} holds only what came before that: remove it", file=sys.stderr)
        raise


def lines(done: Replayed, out: Path | None) -> list[str]:
    """The result in a few lines."""
    rate = done.frames / done.seconds if done.seconds else 0.0
    where = f" from {done.begin_s:.1f} s on" if round(done.begin_s, 1) > 0 else ""
    said = [f"{done.frames} frames{where} in {done.seconds:.1f} s ({rate:.1f} fps) on {done.engine}"]
    said += [done.said] if done.said else []
    said.append(f"{done.messages} messages, SHA-256 {done.digest}")
    if same := done.sameness:
        first = f"; the first other one: {same.first_different}" if same.different else ""
        unknown = f", {same.not_recorded} were not recorded" if same.not_recorded else ""
        said.append(f"{same.same} of {same.same + same.different} messages are the recorded ones{unknown}{first}")
        if same.different and not done.is_exact:
            said.append("the recording holds JPEGs of what the network saw: for equal bytes record with --exact")
    return [*said, f"result in {out}"] if out else said


def _stages(done: Replayed) -> Table:
    table = Table("stage", "p50 ms", "p99 ms", box=None, pad_edge=False)
    for stage, (p50, p99) in done.stages.items():
        table.add_row(stage, f"{p50:.2f}", f"{p99:.2f}")
    return table
