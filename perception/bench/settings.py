"""What a benchmark runs with."""

from __future__ import annotations

from dataclasses import dataclass

from perception.config import Launch
from perception.strict_toml import check


@dataclass(frozen=True)
class BenchSettings:
    drive: str = ""
    seconds: float = 10.0
    model: str = "road"
    engine: str = "auto"
    threads: int = 0
    fps: float = 30.0
    network_every: int = 1
    tracking: str = "auto"

    def launch(self) -> Launch:
        """A launch file for the child processes and the node under test; on a port that the system chooses.

        Raises:
            ConfigError: the engine or the kind of propagator is none.
        """
        model = {"path": self.model, "engine": self.engine, "threads": self.threads}
        tables = {"version": 1, "model": model | {"network_every": self.network_every}}
        tables |= {"tracking": {"kind": self.tracking}, "publish": {"endpoints": ["tcp://127.0.0.1:*"]}}
        return check(tables, Launch, "perception bench")
