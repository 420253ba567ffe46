"""Which engine serves: the ladder from the fastest to the one that works anywhere, and what moves a node on it."""

from __future__ import annotations
