"""Words out of recordings, made safe to show on one line."""

from __future__ import annotations


def one_line(text: str, most: int = 500) -> str:
    """Text without characters that move a terminal's cursor or are no XML, cut where it is too long."""
    plain = "".join(c if c.isprintable() else "?" for c in text[: most + 1])
    return plain if len(plain) <= most else plain[: most - 3] + "..."
