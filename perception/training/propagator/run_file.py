"""run.json: what a run was begun with. Clips, their split and the learning rate follow from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from perception.errors import ConfigError, reason
from perception.whole_file import write

NAME = "run.json"


def require_same_run(run: Path, now: Mapping[str, object]) -> None:
    """Note what a run is begun with in its folder, or compare with what is noted there.

    Without the comparison a run would go on with clips that another network saw.

    Raises:
        ConfigError: it was begun with something else, the first of which is named; or the folder can't be written.
    """
    path = run / NAME
    try:
        if not path.exists():
            write(path, (json.dumps(now, indent=1) + "\n").encode())
            return
        before = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {reason(error)}; name another folder with --run") from None
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise ConfigError(f"{path}: not what `train-memory` wrote; name another folder with --run")
    for key, value in now.items():
        if before.get(key) != value:
            raise ConfigError(
                f"{run}: {key} was {before.get(key)!r}, is {value!r}; "
                "go on with what it was, or name another folder with --run"
            )
