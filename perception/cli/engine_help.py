"""What --engine takes, said once for every command that has it."""

from __future__ import annotations

from typing import get_args

from perception.config import EngineName

*_OTHERS, _LAST = get_args(EngineName)
ENGINE_HELP = f"{', '.join(_OTHERS)} or {_LAST}."
