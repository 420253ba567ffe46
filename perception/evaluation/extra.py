"""Packages that only some evaluations need."""

from __future__ import annotations

import importlib
from types import ModuleType

from perception.errors import ConfigError


def load_extra(module: str, purpose: str) -> ModuleType:
    """Import a module of the `evaluate` extra. Raises ConfigError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ConfigError(f"{purpose} needs {package}: pip install 'perception-node[evaluate]'") from None
