"""Plans that are there and may not be loaded: others could have written them, or they were refused. No GPU was used."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from perception.engines.cache import PLAN, CacheError, PlanCache, Unwanted
from tests.test_plan_cache import built, cache, faults, graph  # noqa: F401  # fixtures

# ruff: noqa: F811

# Whose the folder is


def opened_to_all(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o022)


def readable(root: Path) -> None:
    """By all, as a cache that is prepared for a machine's users."""
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def given_away(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    os.chown(path, 65534, 65534)


@pytest.mark.parametrize("spoil", [opened_to_all, given_away])
@pytest.mark.parametrize("place", ["root", "plans", "entry", "plan", "manifest"])
def test_a_plan_that_others_could_have_written_is_not_found(
    cache: PlanCache, graph: Path, faults: Path, place: str, spoil: Callable[[Path], None]
) -> None:
    key = built(cache, graph)
    entry = cache.entry(key)
    if place == "plans":
        readable(cache.root)  # else nobody gets there
    places = {"root": cache.root, "plans": entry.parent, "entry": entry}
    spoil({**places, "plan": entry / PLAN, "manifest": entry / "manifest.json"}[place])
    with pytest.raises(CacheError, match=r"^engine cache: /.* other users"):
        cache.find(key)


def test_a_plan_is_its_owners_alone_whatever_the_umask(cache: PlanCache, graph: Path, faults: Path) -> None:
    before = os.umask(0)
    try:
        key = built(cache, graph)
    finally:
        os.umask(before)
    assert cache.find(key)


def test_a_folder_that_an_earlier_version_left_open_is_closed(cache: PlanCache, graph: Path, faults: Path) -> None:
    key = built(cache, graph)
    folder = cache.entry(key).parent
    folder.chmod(0o775)  # mkdir(parents=True) under a umask of 002
    assert cache.find(key)  # nobody else gets through the root
    cache.prepare()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_cache_that_all_may_read_is_loaded_from_and_not_built_into(
    cache: PlanCache, graph: Path, faults: Path
) -> None:
    key = built(cache, graph)
    readable(cache.root)
    assert cache.find(key)
    with pytest.raises(CacheError, match="is open to other users"):
        cache.prepare()


def test_roots_cache_may_be_another_users(faults: Path, graph: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        cache = PlanCache(Path(folder) / "cache")
        key = built(cache, graph)
        readable(Path(folder))
        os.seteuid(65534)
        try:
            assert cache.find(key)
        finally:
            os.seteuid(0)


# What may not serve


def test_a_refused_plan_is_gone_and_so_is_any_other_of_its_key_until_it_is_accepted(
    cache: PlanCache, graph: Path, faults: Path
) -> None:
    key = built(cache, graph)
    cache.refuse(key, "loses 2 points", "at most 1")
    assert not cache.entry(key).exists()
    mark = cache.mark(key)
    assert mark
    assert (mark.reason, mark.terms) == ("loses 2 points", "at most 1")
    with pytest.raises(Unwanted, match="loses 2 points"):
        built(cache, graph)
    with pytest.raises(Unwanted, match="loses 2 points"):
        PlanCache(cache.root).find(key)
    cache.accept(key)
    assert cache.find(built(cache, graph))


def test_a_mark_that_cant_be_read_is_one(cache: PlanCache, graph: Path, faults: Path) -> None:
    key = built(cache, graph)
    cache.refuse(key, "loses 2 points", "")
    Path(f"{cache.entry(key)}.refused").write_bytes(b"\xff")
    with pytest.raises(Unwanted, match="it was refused"):
        cache.find(key)
