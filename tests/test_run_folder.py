"""One training at a time in a folder, and nothing that is there is lost."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.errors import ConfigError  # noqa: E402
from perception.training.checkpoint import SaveError, load_checkpoint  # noqa: E402
from perception.training.command import Outcome, Request, check_command, train_command  # noqa: E402
from perception.training.run_folder import held  # noqa: E402
from perception.whole_file import beside  # noqa: E402
from tests.training_fakes import CONFIG, no_file_beyond, write_config  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def quiet(_what: str, _done: int, _total: int) -> None:
    pass


def request(folder: Path, text: str = CONFIG, **options) -> Request:
    options = {"without": ["validation"], "steps": 1, **options}
    return Request(write_config(folder, text), folder / "run", device="cpu", **options)


def trained(folder: Path, progress=quiet, **options) -> Outcome:
    return train_command(request(folder, **options), progress)


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Path:
    """A validated run of a step, and the folder of its data."""
    folder = tmp_path_factory.mktemp("complete")
    torch.set_num_threads(1)
    assert trained(folder, without=[]).is_complete
    return folder


def copied(complete: Path, folder: Path, *left_out: str) -> dict[str, bytes]:
    shutil.copytree(complete, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*left_out))
    return {path.name: path.read_bytes() for path in (folder / "run").iterdir() if path.is_file()}


@pytest.mark.parametrize("resume", [False, True])
def test_the_best_weights_of_a_run_without_its_state_are_left_alone(complete, tmp_path, resume):
    before = copied(complete, tmp_path, "last.safetensors")
    with pytest.raises(ConfigError, match=r"best.safetensors but no last.safetensors.*--run FOLDER --start .*run/best"):
        trained(tmp_path, resume=resume)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_the_log_of_a_run_without_its_state_is_left_alone(complete, tmp_path):
    before = copied(complete, tmp_path, "*.safetensors")
    with pytest.raises(ConfigError, match=r"a run's log.csv but no last.safetensors to go on from.*anew .* --resume"):
        trained(tmp_path)
    assert (tmp_path / "run" / "log.csv").read_bytes() == before["log.csv"]


def test_a_run_that_left_a_log_alone_begins_anew_beside_it(complete, tmp_path, caplog):
    """A job script always says --resume."""
    before = copied(complete, tmp_path, "*.safetensors")
    check_command(request(tmp_path, resume=True), tmp_path / "batch.png", quiet)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before
    assert trained(tmp_path, resume=True).is_complete
    assert (tmp_path / "run" / "log.csv.before").read_bytes() == before["log.csv"]
    assert "begins anew, the log of before is log.csv.before" in caplog.text
    (tmp_path / "run" / "last.safetensors").unlink()
    again = (tmp_path / "run" / "log.csv").read_bytes()
    assert trained(tmp_path, resume=True).is_complete
    assert (tmp_path / "run" / "log.csv.before").read_bytes() == before["log.csv"]
    assert (tmp_path / "run" / "log.csv.before1").read_bytes() == again


def test_the_check_of_a_run_that_can_not_go_on_says_so(complete, tmp_path):
    copied(complete, tmp_path, "last.safetensors")
    with pytest.raises(ConfigError, match=r"no last\.safetensors to go on from"):
        check_command(request(tmp_path, resume=True), tmp_path / "batch.png", quiet)


KILLED = """
import os, signal, sys
from pathlib import Path
from perception.training.command import Request, train_command

def progress(what, done, total):
    if what.startswith("loss"):
        os.kill(os.getpid(), signal.SIGKILL)

train_command(Request(sys.argv[1], Path(sys.argv[2]), device="cpu", steps=2, without=["validation"]), progress)
"""


def test_a_run_killed_before_its_first_checkpoint_can_be_resumed(tmp_path):
    """A job script always says --resume."""
    arguments = [sys.executable, "-c", KILLED, write_config(tmp_path), str(tmp_path / "run")]
    assert subprocess.run(arguments, capture_output=True).returncode < 0
    assert load_checkpoint(tmp_path / "run" / "last.safetensors")[1].step == 0
    assert trained(tmp_path, steps=2, resume=True).step == 2


@pytest.mark.parametrize("spoilt", ["labels", "trainer"])
def test_an_error_in_the_first_step_leaves_the_folder_to_a_mended_configuration(tmp_path, spoilt):
    def fail(what: str, done: int, total: int) -> None:
        if what.startswith("checking") and done == total and spoilt == "labels":
            for path in (tmp_path / "a" / "labels").iterdir():
                path.write_bytes(b"")

    text = CONFIG.replace("cache_mb = 16", "cache_mb = 0")
    if spoilt == "trainer":  # nothing that learns has a loss, which the first step finds out
        text = text.replace('kind = "unet"\nwidth = 8', 'kind = "realtime"\nwidth = 16')
        text = text.replace("warmup = 2", 'only = ["centre", "offset"]') + "[loss]\ncentre = 0\noffset = 0\n"
    start = None if spoilt == "labels" else Path("road")
    with pytest.raises(ConfigError, match=r"broken or cut off|no loss reaches"):
        trained(tmp_path, fail, text=text, start=start)
    assert not {"last.safetensors", "log.csv"} & {path.name for path in (tmp_path / "run").iterdir()}
    shutil.rmtree(tmp_path / "a")
    assert trained(tmp_path, text=CONFIG.replace("samples = 2", "samples = 1")).is_complete


def test_an_error_in_the_first_step_takes_no_run_that_was_there(tmp_path):
    arguments = [sys.executable, "-c", KILLED, write_config(tmp_path), str(tmp_path / "run")]
    assert subprocess.run(arguments, capture_output=True).returncode < 0
    for path in (tmp_path / "a" / "labels").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ConfigError, match="broken or cut off"):
        trained(tmp_path, steps=2, resume=True)
    assert load_checkpoint(tmp_path / "run" / "last.safetensors")[1].step == 0
    assert (tmp_path / "run" / "log.csv").exists()


def test_a_full_disk_says_what_is_left_where_there_is_no_checkpoint(tmp_path):
    with no_file_beyond(100_000), pytest.raises(SaveError, match=r"none was written before: .* begin again in another"):
        trained(tmp_path)
    assert (tmp_path / "run" / "log.csv").exists()


HOLDER = """
import sys
from pathlib import Path
from perception.training.run_folder import held

with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_in_which_another_process_trains_is_refused(complete, tmp_path, resume):
    before = copied(complete, tmp_path)
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="another training runs in it; wait for it, or name another folder"):
            trained(tmp_path, resume=resume)
        other.kill()  # and the lock is gone with it
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before["last.safetensors"]
    assert trained(tmp_path, resume=True, without=[]).is_complete


def test_of_two_trainings_that_begin_together_in_a_new_folder_one_is_refused(tmp_path):
    """The first is complete while the second reads its pictures."""

    def overtake(what: str, done: int, total: int) -> None:
        if what.startswith("checking") and done == total and not (tmp_path / "run").exists():
            trained(tmp_path)

    with pytest.raises(ConfigError, match="holds a run already"):
        trained(tmp_path, overtake, steps=2)
    assert load_checkpoint(tmp_path / "run" / "last.safetensors")[1].step == 1


def test_a_training_holds_its_folder_to_the_end(tmp_path):
    refused = []

    def look(what: str, _done: int, _total: int) -> None:
        if what.startswith("loss"):
            with pytest.raises(ConfigError, match="another training runs in it") as caught, held(tmp_path / "run"):
                pass
            refused.append(caught)

    trained(tmp_path, look)
    assert len(refused) == 1


def test_what_a_killed_training_left_half_written_is_removed(complete, tmp_path):
    copied(complete, tmp_path)
    for name in (".last.safetensors.77.partial", ".curves.png.77.partial"):
        (tmp_path / "run" / name).write_bytes(b"half")
    (tmp_path / "run" / "mine.partial").write_bytes(b"not ours")
    assert trained(tmp_path, resume=True, without=[]).is_complete
    assert [path.name for path in (tmp_path / "run").glob("*.partial")] == ["mine.partial"]


WITHOUT_LOCKS = """
import errno, fcntl, os, sys
from pathlib import Path
from perception.training.run_folder import held

def no_lock(descriptor, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fcntl.flock = no_lock  # as the kernel answers on a network file system without locks
with held(Path(sys.argv[1])):
    pass
"""


def test_without_locks_nothing_is_removed_that_another_machine_may_be_writing(tmp_path):
    left = tmp_path / ".last.safetensors.elsewhere.77.partial"
    left.write_bytes(b"half")
    result = subprocess.run([sys.executable, "-c", WITHOUT_LOCKS, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "can't be locked" in result.stderr
    assert left.exists()


def test_what_is_half_written_has_the_machine_in_its_name(tmp_path):
    assert beside(tmp_path / "a.csv").name == f".a.csv.{socket.gethostname()}.{os.getpid()}.partial"


AS_ANOTHER = """
import os
from pathlib import Path
from perception.errors import ConfigError
from perception.training.run_folder import held

if os.getuid() == 0:  # who may write everything
    os.setuid(65534)
try:
    with held(Path(".")):
        print("held", flush=True)
except ConfigError as error:
    print(error, flush=True)
"""


def test_the_lock_file_of_another_user_is_locked_all_the_same(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    run.chmod(0o777)
    (run / ".lock").touch()
    (run / ".lock").chmod(0o444)

    def said() -> str:
        return subprocess.run([sys.executable, "-c", AS_ANOTHER], cwd=run, capture_output=True, text=True).stdout

    assert said() == "held\n"
    with (run / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another training runs in it" in said()
