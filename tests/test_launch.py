"""The files that a vehicle starts from."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from perception.geometry import load_camera

ROOT = Path(__file__).parent.parent
ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.parametrize("path", sorted((ROOT / "calibration").glob("*.toml")), ids=lambda p: p.name)
def test_every_calibration_file_is_valid(path):
    assert len(load_camera(path).content_hash) == 16


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_the_unit_is_one_that_systemd_accepts(tmp_path):
    unit = (ROOT / "launch" / "perception.service").read_text()
    path = tmp_path / "perception.service"
    path.write_text(unit.replace("/opt/perception/.venv/bin/perception", "/bin/true"))
    done = subprocess.run([str(ANALYZE), "verify", str(path)], capture_output=True, text=True, timeout=30)
    complaints = [line for line in done.stderr.splitlines() if "perception.service" in line]
    assert complaints == []


def test_a_wrong_launch_file_is_not_started_again_and_a_failure_is():
    unit = (ROOT / "launch" / "perception.service").read_text()
    assert "RestartPreventExitStatus=2" in unit
    assert "Restart=always" in unit
