"""The live view in a real browser: what the page shows is what was published. Skipped where there is no Chromium."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="the view needs aiohttp")

from perception.bench.browser import Tab, browsing, find_browser
from perception.labels import COLOURS
from tests import view_fakes
from tests.fakes import tiny_model
from tests.source_fakes import write_video
from tests.view_fakes import EVIL, SIZE, car_at, grey, publishing, running, tell, view_of

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium on the PATH")

T = TypeVar("T")
WITHIN_S = 40.0
PAINTED = "view.shown && view.shown.bitmap && view.shown.masks.length"
READ = """(() => {
  const s = view.shown, [w, h] = s.size;
  const masks = [...layers.masks.getImageData(0, 0, w, h).data];
  const picture = layers.picture.getImageData(2, 2, 1, 1).data[0];
  return { seq: s.seq, masks, picture, validity: s.validity, hasPicture: Boolean(s.bitmap) };
})()"""


class Page:
    """One browser with one tab, driven from the thread of the tests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._browser = browsing()
        self.tab: Tab = self._wait(self._browser.__aenter__())

    def close(self) -> None:
        self._wait(self._browser.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _wait(self, task: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(task, self._loop).result(60)

    def open(self, link: str, painted: bool = True) -> None:
        self._wait(self.tab.open("about:blank"))
        self.tab.problems.clear()
        self.tab.requested.clear()
        self._wait(self.tab.open(link))
        if painted:
            self.until(PAINTED)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Another tab is in front of ours."""
        context = self.tab.hidden()
        self._wait(context.__aenter__())
        try:
            yield
        finally:
            self._wait(context.__aexit__(None, None, None))

    def evaluate(self, expression: str) -> Any:
        return self._wait(self.tab.evaluate(expression))

    def until(self, expression: str, within_s: float = WITHIN_S) -> float:
        return self._wait(self.tab.until(expression, within_s))

    def press(self, key: str) -> None:
        self._wait(self.tab.press(key))

    def click(self, x: float, y: float) -> None:
        self._wait(self.tab.click(x, y))

    def read(self) -> dict[str, Any]:
        """The frame on the screen: its number, the pixels of masks and picture."""
        got = self.evaluate(READ)
        got["masks"] = np.array(got["masks"], np.uint8).reshape(SIZE[1], SIZE[0], 4)
        return got

    def banner(self) -> str:
        return self.evaluate("$('banner').hidden ? '' : $('banner').textContent")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    page = Page()
    yield page
    page.close()


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/s/front"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A publisher and a view for several tests; the link."""
    endpoint = f"ipc://{tmp_path_factory.mktemp('live')}/s/front"
    with publishing(endpoint), view_of(endpoint) as link:
        yield link


def expected(seq: int, off: tuple[str, ...] = ()) -> np.ndarray:
    """(h, w, 4) what the masks of a frame are to look like: painted in the order labels, bits, positions."""
    scene, painted = view_fakes.scene(seq, 0), np.zeros((SIZE[1], SIZE[0], 4), np.uint8)
    names = {0: "road", 1: "lane marking", 2: "car"}
    if "panoptic" not in off:
        for class_id, name in names.items():
            painted[scene.labels == class_id] = (*COLOURS[name], 255)
    if "road" not in off:
        painted[scene.labels <= 1] = (*COLOURS["road"], 255)
    if "lane" not in off:
        painted[scene.labels == 1] = (*COLOURS["lane"], 255)
    if "instances" not in off:
        painted[scene.id_map == 1] = (*COLOURS["car"], 255)
    return painted


def test_the_pixels_are_those_of_the_mask_that_was_published_and_of_its_picture(page: Page, live: str) -> None:
    page.open(live)
    seen = set()
    for _ in range(4):
        got = page.read()
        seen.add(got["seq"])
        known = expected(got["seq"])
        things = view_fakes.scene(got["seq"], 0).id_map == 2  # a class without a customary colour
        assert np.array_equal(got["masks"][~things], known[~things])
        assert (got["masks"][things][:, 3] == 255).all()
        if got["hasPicture"]:  # on a busy machine one may be late
            assert abs(got["picture"] - grey(got["seq"])) <= 2
        page.until(f"view.shown.seq > {got['seq']}")
    assert len(seen) == 4
    assert not page.tab.problems
    port = live.split(":")[2].strip("/")
    assert {address.split("//")[1].split("/")[0] for address in page.tab.requested} == {f"127.0.0.1:{port}"}


def test_topics_go_off_and_on_by_key_and_by_click(page: Page, live: str) -> None:
    page.open(live)
    topics = page.evaluate("view.status.topics")
    page.press(str(topics.index("road") + 1))
    page.press(str(topics.index("panoptic") + 1))
    page.until("view.off.size === 2")
    page.evaluate("$('topics').querySelector('[data-topic=instances]').click()")
    page.until("view.isDue === false && view.shown.n > 0")
    got = page.read()
    known = expected(got["seq"], off=("road", "panoptic", "instances"))
    lane = known[..., 3] > 0
    assert np.array_equal(got["masks"][lane], known[lane])
    assert not got["masks"][SIZE[1] - 1, 0].any()
    assert page.evaluate("$('topics').querySelector('[data-topic=road]').getAttribute('aria-pressed')") == "false"
    page.press(str(topics.index("road") + 1))
    page.until("!view.off.has('road') && !view.isDue")
    assert tuple(page.read()["masks"][SIZE[1] - 1, 0]) == (*COLOURS["road"], 255)


def test_a_live_picture_is_held_and_goes_on(page: Page, live: str) -> None:
    page.open(live)
    page.press(" ")
    page.until("view.frozen")
    page.until("view.next === null && !view.isDue")
    time.sleep(0.3)
    held = page.read()["seq"]
    page.until("view.status.n > 0 && view.events.length")
    time.sleep(0.3)
    assert page.read()["seq"] == held
    page.press(" ")
    page.until(f"view.shown.seq > {held}")


def test_a_stall_is_said_within_a_second_and_so_is_its_end(page: Page, endpoint: str) -> None:
    with publishing(endpoint) as node, view_of(endpoint) as link:
        page.open(link)
        took = []
        for _ in range(3):  # a busy machine may be late once
            tell(node, "stall")
            took.append(page.until("$('banner').textContent.includes('No picture from the camera: stalled for 0.2 s')"))
            tell(node, "go")
            page.until("$('banner').hidden")
            if took[-1] < 1.0:
                return
        raise AssertionError(took)


def test_a_node_that_is_killed_is_said_and_one_that_comes_back_is_shown(page: Page, endpoint: str) -> None:
    with view_of(endpoint) as link:
        page.open(link, painted=False)
        page.until(f"$('banner').textContent.includes('Waiting for a node at {endpoint}')")
        with publishing(endpoint, "run-1"):
            page.until(PAINTED)
            page.until("$('banner').hidden")
        page.until("$('banner').textContent.includes('The node is silent')", 3)
        with publishing(endpoint, "run-2"):
            page.until("view.shown.run === 'run-2'")
            page.until("$('banner').hidden")


def test_a_viewer_that_is_gone_is_said_and_one_that_comes_back_is_found(page: Page, endpoint: str) -> None:
    with publishing(endpoint):
        with view_of(endpoint) as link:
            page.open(link)
            port = link.split(":")[2].strip("/")
        page.until("$('banner').textContent.includes('The viewer does not answer')")
        with view_of(endpoint, "--port", port):
            page.until(PAINTED)
            page.until("$('banner').hidden")


def test_names_from_the_network_are_words_and_nothing_else(page: Page, endpoint: str) -> None:
    with publishing(endpoint) as node, view_of(endpoint) as link:
        page.open(link)
        tell(node, "degrade")
        page.until("view.shown.validity === 'degraded' && view.events.length")
        page.until(f"$('events').textContent.includes('{EVIL[:10]}')")
        page.until(f"$('how').textContent.includes('{EVIL}')")
        page.until(f"$('tracks').textContent.includes('{EVIL[:10]}')")
        assert page.evaluate("document.querySelectorAll('img').length") == 0
        assert page.evaluate("window.hacked") is None
        inline = "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'"
        assert page.evaluate(f"(() => {{ {inline}; document.body.append(s); return window.hacked }})()") is None


def test_hundreds_of_tracks_are_drawn_and_listed(page: Page, endpoint: str) -> None:
    with publishing(endpoint, tracks=400), view_of(endpoint) as link:
        page.open(link)
        page.until("view.shown.tracks.length === 400")
        page.until("$('tracks').textContent.includes('and 300 more')")
        before = page.evaluate("view.count")
        page.until(f"view.count > {before} + 5")
        assert not page.tab.problems


def test_a_click_follows_the_thing_under_it(page: Page, live: str) -> None:
    page.open(live)
    page.evaluate("(view.frozen = true, look())")
    page.until("view.next === null && !view.isDue")
    x = car_at(page.read()["seq"]) + 8
    left, top, width, height = page.evaluate(
        "(r => [r.left, r.top, r.width, r.height])($('marks').getBoundingClientRect())"
    )
    page.click(left + width * x / SIZE[0], top + height * 18 / SIZE[1])
    page.until("view.followed === 10")
    assert "10 car" in page.evaluate("$('about').textContent")
    page.press("Escape")
    page.until("view.followed === null && $('followed').hidden")


def test_a_tab_that_sleeps_takes_no_pictures_from_the_node_and_wakes(page: Page, live: str) -> None:
    page.open(live)
    with page.hidden():
        page.until("document.hidden && view.socket.readyState === 1")
        page.until("view.status.n > view.shown.n + 4")
        count = page.evaluate("view.count")
        time.sleep(0.4)
        assert page.evaluate("view.count") == count
    page.until(f"!document.hidden && view.count > {count} + 3")


def test_a_drive_is_paused_stepped_and_moved_from_the_page(page: Page, endpoint: str, tmp_path: Path) -> None:
    video = write_video(tmp_path / "drive.mp4", range(0, 4000, 100))
    words = [
        sys.executable,
        "-m",
        "perception.cli",
        "replay",
        str(video),
        "--speed",
        "3",
        "--view",
        "--engine",
        "onnxruntime",
    ]
    words += ["--engine", "onnxruntime", "--model", str(tiny_model(tmp_path, form="labels")), "-e", endpoint]
    with running(words, r"open (\S+)", "stderr") as (process, link):
        page.open(link, painted=False)
        page.until("view.play && view.play.end_s > 3.9")
        page.evaluate("seek(0)")  # it may be at its end already
        page.until(PAINTED)
        page.press(" ")
        page.until("view.play.is_paused && $('pause').textContent === 'Play'")
        page.evaluate("seek(1)")
        page.until("Math.abs(view.play.position_s - 1) < 0.01 && !view.isSeeking")
        page.press(".")
        page.until("Math.abs(view.play.position_s - 1.1) < 0.01")
        page.press("ArrowRight")  # five seconds on: the end
        page.until("view.play.position_s > 3.7 && $('scrub').value > 3.7")
        page.press(" ")
        page.until("view.play.is_at_end && $('place').textContent.includes('the end')")
        page.evaluate("send({ do: 'prompt', points: [[5, 5]] })")
        page.until("$('said').textContent.length > 10")  # nothing to follow: the node's own words
        page.evaluate("seek(0)")
        page.until("view.play.position_s < 3 && !view.play.is_at_end")
        process.send_signal(signal.SIGINT)
        page.until("$('banner').textContent.includes('The viewer does not answer')")
        assert process.wait(10) == 0
