"""Drives as tests in somebody's repository."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from perception.compare.tolerance import LEVELS
from perception.fleet.report import write_page
from perception.pytest_plugin import CHOICES
from perception.replay.performance import Mode
from tests.fleet_fakes import held, picture_drive, recording, tiny_launch

pytest_plugins = "pytester"
PLUGIN = ("-p", "perception.pytest_plugin")


@pytest.fixture(scope="module", autouse=True)
def _all_is_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A pytest within pytest forgets what it imported first, and extension modules can't be imported twice."""
    folder = tmp_path_factory.mktemp("once")
    recording(folder / "drives" / "tunnel.mcap", 4)
    held(folder, accepts=True)
    write_page(folder / "page.html", [*held(folder, model="blind").values()], "auto", lambda what, done, total: None)


@pytest.fixture
def repository(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """With a drive that is a file, one that is a folder, and a test of its own."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    recording(pytester.path / "tests" / "drives" / "tunnel.mcap", 10)
    recording(pytester.path / "tests" / "drives" / "long" / "0000.mcap", 5)
    picture_drive(pytester.path / "tests" / "drives" / "walk")
    (pytester.path / "tests" / "test_own.py").write_text("def test_own(): pass\n")
    tiny_launch(pytester.path)
    return pytester


def configure(repository: pytest.Pytester, *lines: str) -> None:
    text = "\n".join(("[pytest]", "testpaths = tests", "perception_launch = launch.toml", *lines))
    (repository.path / "pytest.ini").write_text(text + "\n")


SETTING = "perception_drives = tests/drives"


def test_nothing_is_collected_unasked(repository: pytest.Pytester):
    configure(repository)
    repository.runpytest(*PLUGIN).assert_outcomes(passed=1)


def test_each_drive_is_a_test(repository: pytest.Pytester):
    configure(repository, SETTING)
    repository.runpytest(*PLUGIN, "--accept-drives").assert_outcomes(passed=4)
    result = repository.runpytest(*PLUGIN, "-v")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines_random(
        ["*tunnel.mcap::tunnel PASSED*", "*drives/long::long PASSED*", "*drives/walk::walk PASSED*"]
    )


def test_a_folder_may_be_named_on_the_command_line(repository: pytest.Pytester):
    configure(repository)
    repository.runpytest(*PLUGIN, "--drives", "tests/drives", "--accept-drives").assert_outcomes(passed=4)
    repository.runpytest(*PLUGIN, "--drives", "tests/drives", "tests/test_own.py").assert_outcomes(passed=4)


def test_a_folder_that_is_not_there(repository: pytest.Pytester):
    configure(repository)
    result = repository.runpytest(*PLUGIN, "--drives", "gone")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--drives gone: no such folder*"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("perception_level = tigth", "*perception_level: 'tigth' is not one of auto, *; did you mean 'tight'?*"),
        ("perception_mode = Exact", "*perception_mode: 'Exact' is not one of exact, *; did you mean 'exact'?*"),
        ("perception_mode =", "*perception_mode: '' is not one of exact, re-enacted, what-if"),
    ],
)
def test_a_mistyped_setting_is_an_error_of_usage(repository: pytest.Pytester, line: str, says: str):
    configure(repository, SETTING, line)
    result = repository.runpytest(*PLUGIN)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([says])


def test_the_settings_take_all_that_there_is():
    assert CHOICES["perception_mode"] == get_args(Mode)
    assert CHOICES["perception_level"] == ("auto", *LEVELS)


def test_without_a_reference_it_says_how_to_make_one(repository: pytest.Pytester):
    configure(repository, SETTING)
    result = repository.runpytest(*PLUGIN)
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["*no reference*--accept-drives*"])


def test_accepting_says_what_it_wrote(repository: pytest.Pytester):
    configure(repository, SETTING)
    result = repository.runpytest(*PLUGIN, "--accept-drives")
    result.stdout.fnmatch_lines(["accepted: tunnel: *", "*pedestrian: things 1*"])
    assert len(list((repository.path / "tests" / "drives" / "reference").iterdir())) == 3


def test_a_failure_says_the_findings_and_where_the_page_is(repository: pytest.Pytester):
    configure(repository, SETTING)
    repository.runpytest(*PLUGIN, "--accept-drives")
    launch = repository.path / "launch.toml"
    launch.write_text(launch.read_text().replace("tiny.onnx", "blind.onnx"))
    result = repository.runpytest(*PLUGIN)
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        [
            "*differs: statistical: the reference is of model tiny*",
            "*IoU of pedestrian*",
            "*page with plots*tunnel.html",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    page = next(line for line in result.outlines if line.endswith("tunnel.html")).rpartition(": ")[2]
    assert "<html" in Path(page).read_text()


def test_a_drive_that_is_none_fails_alone(repository: pytest.Pytester):
    configure(repository, SETTING)
    repository.runpytest(*PLUGIN, "--accept-drives")
    (repository.path / "tests" / "drives" / "bad.mcap").write_text("not a recording")
    result = repository.runpytest(*PLUGIN)
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*failed: *bad.mcap: not an MCAP file*"])


def test_drives_can_be_left_out_by_their_mark(repository: pytest.Pytester):
    configure(repository, SETTING)
    repository.runpytest(*PLUGIN, "-m", "not drive", "--strict-markers").assert_outcomes(passed=1, deselected=3)


def test_fixtures_for_assertions_of_ones_own(repository: pytest.Pytester):
    configure(repository, SETTING)
    repository.runpytest(*PLUGIN, "--accept-drives")
    (repository.path / "tests" / "test_own.py").write_text(
        """
def test_result(replay_drive_result):
    outcome = replay_drive_result("tunnel.mcap")
    assert outcome.figures["pedestrian"]["things"] == 1
    assert outcome.frames == 10

def test_comparison(drive_comparison):
    assert drive_comparison("tunnel.mcap").is_same
    assert not drive_comparison("tunnel.mcap", model="blind.onnx").is_same
"""
    )
    repository.runpytest(*PLUGIN, "tests/test_own.py").assert_outcomes(passed=2)
