"""The files that a vehicle starts from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from perception.config import read_launch
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


CONTAINER = (ROOT / "launch" / "Containerfile").read_text()


def instruction(name: str) -> list[str]:
    """The JSON list of words at the end of an instruction, its continuation lines joined."""
    joined = CONTAINER.replace("\\\n", " ")
    line = next(line for line in joined.splitlines() if line.startswith(f"{name} "))
    return json.loads(line[line.index("[") :])


def copied() -> dict[str, str]:
    """What the image holds of the repository: source to destination."""
    lines = [line.split()[1:] for line in CONTAINER.splitlines() if line.startswith("COPY ")]
    return {source: target for *sources, target in lines for source in sources}


def test_what_the_container_file_copies_is_there():
    assert [source for source in copied() if not (ROOT / source).exists()] == []


def test_the_container_starts_from_a_launch_file_that_it_holds():
    command, path = instruction("CMD")
    assert command == "run"
    source = next(s for s, target in copied().items() if str(Path("/opt/perception", target, Path(s).name)) == path)
    assert source == "launch/container.toml"


def test_the_container_listens_where_its_port_leads_and_where_its_health_is_watched():
    publish = read_launch(ROOT / "launch" / "container.toml").publish
    port = publish.endpoints[0].rpartition(":")[2]
    assert publish.endpoints[0].startswith("tcp://0.0.0.0:")  # beyond the container: what -p leads to
    assert set(re.findall(r"-p 127\.0\.0\.1:(\d+):(\d+)", CONTAINER)) == {(port, port)}
    watched = instruction("HEALTHCHECK")
    assert watched[watched.index("--endpoint") + 1] == f"tcp://127.0.0.1:{port}"


def test_the_comments_of_the_container_file_name_launch_files_that_are_there():
    named = re.findall(r"/?launch/(\w+\.toml)", CONTAINER)
    assert named
    assert [name for name in named if not (ROOT / "launch" / name).exists()] == []


def test_a_container_that_is_open_says_what_that_means():
    lines = (ROOT / "launch" / "container.toml").read_text().splitlines()
    place = lines.index(next(line for line in lines if line.startswith("insecure")))
    said = " ".join(lines[place - 3 : place])
    assert "DANGER" in said
    assert "[publish.curve]" in said
