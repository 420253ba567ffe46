"""Measurements that anyone can repeat: `perception bench`."""

from __future__ import annotations
