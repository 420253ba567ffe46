"""The cache of plans and the builds in child processes, with real files and processes. No GPU was used: the compiler is
`tests.plan_fakes`, whose plans are run on the CPU."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from perception.engines.building import Order, build, key_of, named
from perception.engines.cache import PLAN, CacheError, PlanCache, PlanKey, Refusal
from perception.engines.child_build import Cancelled, build_in_child
from perception.engines.plan import Target
from perception.errors import DeviceError, ModelError
from tests.plan_fakes import HEADER, HeaderCompiler
from tests.test_node import until

ROOT = Path(__file__).parent.parent


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv("PLAN_FAULTS", str(folder))
    return folder


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.onnx"
    path.write_bytes(b"a graph")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "cache")


def quiet(what: str, done: int, of: int) -> None: ...


def built(cache: PlanCache, graph: Path) -> PlanKey:
    key = key_of(HeaderCompiler(), graph, "fp16", {"frame": [64, 32]})
    build(HeaderCompiler(), cache, key, graph, quiet)
    return key


def built_on(cache: PlanCache, key: PlanKey, day: str) -> None:
    """Another build than that of now."""
    manifest = cache.manifest(key)
    assert manifest
    path = cache.entry(key) / "manifest.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, built_at=day)))


def order_of(cache: PlanCache, graph: Path, niceness: int = 0) -> Order:
    return Order(named(HeaderCompiler()), str(graph), "fp16", str(cache.root), {"frame": [64, 32]}, "test", niceness)


def in_child(cache: PlanCache, graph: Path, progress=quiet, cancelled: Callable[[], bool] = lambda: False, **more):
    key = key_of(HeaderCompiler(), graph, "fp16", {"frame": [64, 32]})
    build_in_child(order_of(cache, graph, **more), cache, key, progress, cancelled)
    return key


def compiles(faults: Path) -> list[list[str]]:
    log = faults / "log"
    return [line.split()[1:] for line in log.read_text().splitlines()] if log.exists() else []


def names(cache: PlanCache) -> list[str]:
    return sorted(path.name for path in (cache.root / "plans").iterdir() if not path.name.endswith(".lock"))


TARGET = Target("tensorrt", "10.13", "NVIDIA H200", "9.0", "570.86")
KEY = PlanKey("00", TARGET, "fp16", {"frame": [1280, 720]}, ("a",))


OTHERS = [
    *(dataclasses.replace(TARGET, **{field.name: "x"}) for field in dataclasses.fields(Target)),
    dataclasses.replace(KEY, graph="11"),
    dataclasses.replace(KEY, precision="fp32"),
    dataclasses.replace(KEY, profile={"frame": [1920, 1080]}),
    dataclasses.replace(KEY, flags=("b",)),
]


@pytest.mark.parametrize("other", OTHERS)
def test_whatever_decides_a_plan_is_in_its_key(other: PlanKey | Target) -> None:
    other = dataclasses.replace(KEY, target=other) if isinstance(other, Target) else other
    assert other.digest() != KEY.digest()


def test_a_plan_is_found_again_with_its_manifest(cache: PlanCache, graph: Path, faults: Path) -> None:
    key = built(cache, graph)
    assert cache.find(key).read_bytes() == HEADER + b"a graph"
    manifest = cache.manifest(key)
    assert manifest
    assert (manifest.key, manifest.size) == (key.fields(), len(HEADER) + 7)
    assert stat.S_IMODE(cache.root.stat().st_mode) == 0o700
    assert names(cache) == [key.digest()]


def test_what_was_never_built_is_refused_without_a_reason(cache: PlanCache) -> None:
    with pytest.raises(Refusal, match=r"^$"):
        cache.find(KEY)


def tampered(plan: Path) -> None:
    data = bytearray(plan.read_bytes())
    data[-1] ^= 1
    plan.write_bytes(data)


def truncated(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])


def foreign(plan: Path) -> None:
    manifest = plan.with_name("manifest.json")
    told = msgspec.json.decode(manifest.read_bytes())
    told["key"]["device"] = "NVIDIA T4"
    manifest.write_bytes(msgspec.json.encode(told))


def without_manifest(plan: Path) -> None:
    plan.with_name("manifest.json").write_bytes(b"{")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (tampered, "tampered"),
        (truncated, "truncated"),
        (foreign, "another device: 'NVIDIA T4'"),
        (without_manifest, "manifest"),
    ],
)
def test_a_spoilt_plan_is_refused_with_the_reason_and_built_anew(
    cache: PlanCache, graph: Path, faults: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    key = built(cache, graph)
    spoil(cache.entry(key) / PLAN)
    with pytest.raises(Refusal, match=reason):
        cache.find(key)
    built(cache, graph)
    assert cache.find(key).read_bytes() == HEADER + b"a graph"


def test_the_timing_cache_is_kept_for_the_target(cache: PlanCache, graph: Path, faults: Path) -> None:
    built(cache, graph)
    graph.write_bytes(b"another graph")
    built(cache, graph)
    assert [int(known) for _, _, known, _ in compiles(faults)] == [0, len("timed\n")]


def test_a_child_builds_and_tells_of_it_at_the_lowest_priority(cache: PlanCache, graph: Path, faults: Path) -> None:
    told = []
    key = in_child(cache, graph, lambda *news: told.append(news), niceness=19)
    assert cache.find(key)
    assert [news for news in told if news[0] == "tactics"] == [("tactics", i, 10) for i in range(10)]
    ((pid, niceness, *_),) = compiles(faults)
    assert int(pid) != os.getpid()
    assert niceness == "19"


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("fail", "unsupported operator Frobnicate"),
        ("crash", "signal SIGSEGV"),
        ("stderr", "exit code 3: out of workspace in layer 7"),
        ("oom", "out of memory"),
        ("full", "no space left on device; free it"),
    ],
)
def test_a_build_that_fails_says_why_and_leaves_nothing(
    cache: PlanCache, graph: Path, faults: Path, how: str, reason: str
) -> None:
    (faults / "compile").write_text(how)
    with pytest.raises(ModelError, match=reason) as raised:
        in_child(cache, graph)
    assert "\n" not in str(raised.value)
    assert names(cache) == []


def test_a_build_on_a_full_gpu_says_that_it_was_the_gpu(cache: PlanCache, graph: Path, faults: Path) -> None:
    (faults / "compile").write_text("gpu")
    with pytest.raises(DeviceError, match="the GPU's memory is full"):
        in_child(cache, graph)
    assert names(cache) == []


def test_a_build_that_is_cancelled_ends_its_child_and_leaves_nothing(
    cache: PlanCache, graph: Path, faults: Path
) -> None:
    (faults / "compile").write_text("slow")
    with pytest.raises(Cancelled):
        in_child(cache, graph, cancelled=lambda: bool(compiles(faults)))
    ((pid, *_),) = compiles(faults)
    assert not Path(f"/proc/{pid}").exists()
    assert names(cache) == []


def test_what_a_killed_build_left_is_removed_by_the_next(cache: PlanCache, graph: Path, faults: Path) -> None:
    (faults / "compile").write_text("slow")
    read, write = os.pipe()
    argv = [sys.executable, "-m", "perception.engines.building", msgspec.json.encode(order_of(cache, graph)).decode()]
    with subprocess.Popen([*argv, str(write)], cwd=ROOT, stdin=subprocess.PIPE, pass_fds=(write,)) as child:
        until(lambda: bool(compiles(faults)), 60)
        child.send_signal(signal.SIGKILL)
    os.close(read)
    os.close(write)
    assert len(names(cache)) == 1
    assert ".partial-" in names(cache)[0]
    (faults / "compile").write_text("")
    key = built(cache, graph)
    assert names(cache) == [key.digest()]


def test_a_build_ends_with_its_parent(cache: PlanCache, graph: Path, faults: Path) -> None:
    (faults / "compile").write_text("slow")
    code = (
        "import sys, msgspec\nfrom pathlib import Path\nfrom tests.test_plan_cache import in_child\n"
        "from perception.engines.cache import PlanCache\n"
        f"in_child(PlanCache(Path({str(cache.root)!r})), Path({str(graph)!r}))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as parent:
        until(lambda: bool(compiles(faults)), 60)
        parent.send_signal(signal.SIGKILL)
    ((pid, *_),) = compiles(faults)
    until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2], 30)


def test_builders_of_one_plan_wait_for_one_another(cache: PlanCache, graph: Path, faults: Path) -> None:
    (faults / "compile").write_text("slow")
    told: list[str] = []
    threads = [
        threading.Thread(target=in_child, args=(cache, graph, lambda what, done, of: told.append(what)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    until(lambda: told.count("waiting") == 3 and bool(compiles(faults)), 60)
    (faults / "compile").write_text("")
    for thread in threads:
        thread.join(60)
    assert len(compiles(faults)) == 1
    assert len(names(cache)) == 1


def test_a_folder_that_cant_be_used_is_one_line(tmp_path: Path, graph: Path, faults: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"not a directory; free it, or name another folder in model\.cache"):
        PlanCache(tmp_path / "file" / "cache").prepare()
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o755)
    with pytest.raises(CacheError, match="chmod 700"):
        PlanCache(open_to_all).prepare()


def test_who_dies_with_a_plan_is_remembered_until_that_is_forgiven(cache: PlanCache, graph: Path, faults: Path) -> None:
    key = built(cache, graph)
    alive = cache.begin_trial(key)
    assert cache.deaths(key) == 0
    code = (
        "import os\nfrom pathlib import Path\nfrom perception.engines.cache import PlanCache\n"
        "from perception.engines.building import key_of\nfrom tests.plan_fakes import HeaderCompiler\n"
        f"key = key_of(HeaderCompiler(), Path({str(graph)!r}), 'fp16', {{'frame': [64, 32]}})\n"
        f"trial = PlanCache(Path({str(cache.root)!r})).begin_trial(key)\nos._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 9
    assert cache.deaths(key) == 1
    alive.end()
    cache.forgive(key)
    assert cache.deaths(key) == 0


def test_a_plan_that_was_replaced_is_not_removed_for_the_one_before(
    cache: PlanCache, graph: Path, faults: Path
) -> None:
    key = built(cache, graph)
    before = cache.manifest(key)
    cache.remove(key)
    built(cache, graph)
    built_on(cache, key, "2026-01-02")
    cache.remove(key, before)
    assert cache.find(key)
    cache.remove(key, cache.manifest(key))
    assert names(cache) == []


def test_the_clock_of_a_build_is_in_its_manifest(cache: PlanCache, graph: Path, faults: Path) -> None:
    began = time.monotonic()
    manifest = cache.manifest(built(cache, graph))
    assert manifest
    assert 0 <= manifest.took_s <= time.monotonic() - began
