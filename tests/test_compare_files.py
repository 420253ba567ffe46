"""What a comparison leaves: one HTML page, JSON, JUnit XML."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from perception.compare import Comparison, Options, compare, write_html, write_json, write_junit
from perception.compare.page import html_of
from perception.images import decode_image
from perception.sinks.messages import TopicSpec
from tests.compare_fakes import about, car_is_truck, renamed, scenes, write_result

HOSTILE = "<script>alert(1)</script>&\"'\x1b[31m\n]]>"


@pytest.fixture
def different(tmp_path: Path) -> Comparison:
    a = write_result(tmp_path / "a.mcap", scenes(40), images=True)
    planted = [
        renamed(11, 77)(told) if told.frame_seq >= 30 else told for told in scenes(40, car_is_truck, range(5, 9))
    ]
    return compare(a, write_result(tmp_path / "b.mcap", planted, late_ms=20), Options(pictures=20))


class Page(HTMLParser):
    """Tags, ids and references of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        told = dict(attrs)
        self.ids += [told["id"] or ""] if "id" in told else []
        self.references += [told[name] or "" for name in ("src", "href") if name in told]


def test_the_page_shows_every_finding_and_links_to_its_frame(different):
    text = html_of([different])
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    links = {reference.removeprefix("#") for reference in page.references if reference.startswith("#")}
    assert links
    assert links <= set(page.ids)
    for words in ("class swapped: car in A is truck", "id switch: pedestrian #11", "latency: capture to sent, p99"):
        assert words in text


def test_the_page_asks_for_nothing_outside_and_runs_nothing(different):
    text = html_of([different])
    page = Page(text)
    assert all(reference.startswith(("#", "data:image/jpeg;base64,")) for reference in page.references)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert not {name for name in page.attributes if name.startswith("on") or name == "style"}
    assert "default-src 'none'" in text
    assert "unsafe" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_the_page_holds_the_worst_frames_as_pictures(different):
    page = Page(html_of([different]))
    assert page.tags.count("img") == 3 * len(different.pictures)
    assert len(different.pictures) == 5  # four with a swap, one with a switch: no more differ
    for picture in different.pictures:
        shapes = {decode_image(jpeg, "").shape for jpeg in (picture.a, picture.b, picture.difference)}
        assert shapes == {(240, 480, 3)}


def test_images_come_from_a_drive_where_the_results_have_none(tmp_path):
    drive = write_result(tmp_path / "drive.mcap", scenes(12), images=True)
    a = write_result(tmp_path / "a.mcap", scenes(12))
    b = write_result(tmp_path / "b.mcap", scenes(12, car_is_truck, [3]))
    grey, seen = (compare(a, b, Options(pictures=1, frames=frames)).pictures[0].a for frames in (None, drive))
    rows = [decode_image(jpeg, "")[:, 200, 0] for jpeg in (grey, seen)]
    assert abs(int(rows[0][5]) - int(rows[0][100])) < 10  # no road there: the ground alone
    assert int(rows[1][100]) > int(rows[1][5]) + 40  # the camera's image brightens downwards


def test_names_out_of_recordings_are_escaped(tmp_path):
    names = ("road", HOSTILE, "truck", "pedestrian")
    said = about(source=HOSTILE, model=HOSTILE)
    a = write_result(tmp_path / "a.mcap", scenes(6), said, classes=names)
    b = write_result(tmp_path / "b.mcap", scenes(6, car_is_truck, [3]), said, classes=names)
    found = compare(a, b, Options(pictures=2))
    text = html_of([found])
    assert "script" not in Page(text).tags
    assert "\x1b" not in text
    assert all(f.text.isprintable() for f in found.findings)
    write_junit(tmp_path / "x.xml", [found])
    assert "<script>" not in (tmp_path / "x.xml").read_text()
    assert ElementTree.parse(tmp_path / "x.xml").getroot().get("failures") != "0"


def test_junit_has_a_case_for_each_check(different, tmp_path):
    same = replace(different, checks=tuple(replace(check, findings=()) for check in different.checks))
    write_junit(tmp_path / "x.xml", [different, same])
    root = ElementTree.parse(tmp_path / "x.xml").getroot()
    bad, good = root
    assert (root.tag, bad.tag) == ("testsuites", "testsuite")
    assert len(bad) == len(different.checks) == int(bad.get("tests", "0"))
    failed = [case for case in bad if case.find("failure") is not None]
    assert len(failed) == int(bad.get("failures", "0")) > 0
    told = "\n".join(case.findtext("failure") or "" for case in failed)
    assert all(finding.text in told for finding in different.findings)
    assert good.get("failures") == "0"


def test_junit_says_what_was_not_judged(tmp_path):
    a = write_result(tmp_path / "a.mcap", scenes(4))
    write_junit(tmp_path / "x.xml", [compare(a, a, Options(level="tight"))])
    root = ElementTree.parse(tmp_path / "x.xml").getroot()
    assert int(root.get("skipped", "0")) == len(root.findall(".//skipped")) > 0


def test_json_is_strict_and_whole(different, tmp_path):
    write_json(tmp_path / "x.json", different)
    told = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert told["same"] is False
    assert [f["text"] for f in told["findings"]] == [f.text for f in different.findings]
    assert told["findings"][0]["frames"] == [[5, 8]]
    assert told["digest"]["equal"] is False


def test_many_comparisons_make_one_page_below_its_limit(different, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, 60_000, np.uint8).tobytes()
    heavy = tuple(replace(different.pictures[0], frame=k, a=noise, b=noise, difference=noise) for k in range(20))
    many = [replace(different, pictures=heavy), *(replace(different, candidate=Path(f"{k}.mcap")) for k in range(30))]
    write_html(tmp_path / "x.html", many)
    text = (tmp_path / "x.html").read_text()
    assert len(text.encode()) < 6_000_000
    assert "31 of 31 drives differ" in text
    assert text.count("class swapped: car") >= 31


def test_an_hour_makes_plots_no_larger_than_a_minute(tmp_path):
    topics = (TopicSpec("panoptic", (0, 1, 2, 3), "labels"),)
    small, large = (
        compare(
            write_result(tmp_path / f"a{n}.mcap", scenes(n), topics=topics),
            write_result(tmp_path / f"b{n}.mcap", scenes(n, car_is_truck, [1]), topics=topics),
        )
        for n in (260, 520)
    )
    sizes = [len(re.findall(r"class=\"hover\"", html_of([found]))) for found in (small, large)]
    assert sizes[0] == sizes[1]
