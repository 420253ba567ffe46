"""Which clock a stamp counts on."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """Names this host's monotonic clock: the kernel's id of this boot, or a random one where the kernel has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import uuid  # rarely needed, and a subscriber should import fast

        return str(uuid.uuid4())
