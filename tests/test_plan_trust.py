"""Plans that are there and may not be loaded: others could have written them, or they were refused. No GPU was used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from perception.engines.cache import PLAN, CacheError, PlanCache, Unwanted
from tests.test_plan_cache import built, cache, faults, graph  # noqa: F401  # fixtures

# ruff: noqa: F811

# Whose the folder is


def opened_to_all(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o022)


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
