"""Tasks on a Ray cluster: actors with a model loaded each, and another try for the drive of one that died."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Generator, Sequence
from typing import Any

from perception.errors import ConfigError
from perception.fleet.attempts import Attempts
from perception.fleet.judge import Verdict, run_task
from perception.fleet.task import Progress, Stages, Task

LOCAL = "ray"
ASKS = "if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
MISSING = "--on ray needs Ray: pip install 'perception-node[ray]'"


class Player:
    """An actor: one process somewhere, which keeps a model loaded."""

    def __init__(self) -> None:
        self.stages = Stages()

    def play(self, task: Task) -> Verdict:
        return run_task(task, self.stages)


def on_ray(tasks: Sequence[Task], address: str, jobs: int, threads: int, progress: Progress) -> Generator[Verdict]:
    """In actors, in the order in which they are done. Drives, references and results are read and written by the
    actors: on a cluster they must lie in a folder that all its machines have.

    Args:
        address: "ray" for a cluster on this machine that ends with the run, or ray://host:port.
        jobs: actors; 0: as many as the cluster has room for.
        threads: cores that an actor takes.

    Raises:
        ConfigError: Ray is not installed, or the cluster does not answer.
    """
    ray, is_ours = connect(address)
    try:
        room = int(ray.cluster_resources().get("CPU", 1)) // threads
        count = min(jobs or max(1, room), len(tasks))
        actor = ray.remote(num_cpus=threads)(Player)
        yield from _played(ray, actor, Attempts(tasks), count, progress)
    finally:
        if is_ours:
            ray.shutdown()


def connect(address: str) -> tuple[Any, bool]:
    """The ray module, connected, and whether this did it: a program that has a cluster already keeps it.

    Raises:
        ConfigError: Ray is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports to its makers
    try:
        import ray
    except ImportError:
        raise ConfigError(MISSING) from None
    if ray.is_initialized():
        return ray, False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is raised too
            if address == LOCAL:
                ray.init(address="local", include_dashboard=False, **quiet)
            else:
                ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"--on {address}: no Ray cluster answers: {_first_line(error)}; {ASKS}") from None
    return ray, True


def _played(ray: Any, actor: Any, attempts: Attempts, count: int, progress: Progress) -> Generator[Verdict]:
    idle = [actor.remote() for _ in range(count)]
    busy: dict[Any, tuple[Any, Task]] = {}
    while True:
        while idle and (task := attempts.take()):
            player = idle.pop()
            busy[player.play.remote(task)] = player, task
        if not busy:
            return
        done, _ = ray.wait(list(busy))
        player, task = busy.pop(done[0])
        try:
            verdict = ray.get(done[0])
            idle.append(player)
            progress(task.drive.name, 1, 1)
        except ray.exceptions.RayActorError as error:
            verdict = attempts.lost(task, _first_line(error))
            idle.append(actor.remote())
        except ray.exceptions.RayError as error:
            verdict = Verdict(task.drive, "failed", _first_line(error))
            idle.append(player)
        if verdict:
            yield verdict


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
