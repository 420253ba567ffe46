"""Everything that must hold before a commit: ruff, ruff format, pyright, pytest. Run it with the project's Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKS = (
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["pyright", "--pythonpath", sys.executable],
    ["pytest", "-n", "auto", "--dist", "worksteal"],  # on every core: half of the time of most tests is waiting
)


def main() -> int:
    """Run all checks, also after one failed; the number of those that did."""
    failed = []
    for check in CHECKS:
        print(f"== {' '.join(check)}", flush=True)
        if subprocess.run(
            [sys.executable, "-m", *check, *(sys.argv[1:] if check[0] == "pytest" else [])], cwd=ROOT
        ).returncode:
            failed.append(check[0])
    print(f"== {'failed: ' + ', '.join(failed) if failed else 'all good'}", flush=True)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
