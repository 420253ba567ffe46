"""One self-contained HTML page about one comparison or many: no script, and nothing from outside the page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from perception.compare.comparison import Comparison
from perception.compare.findings import Finding
from perception.compare.page_tables import classes, tables
from perception.compare.pictures import APPEARED, CHANGED, DIFFERS, VANISHED, Picture
from perception.compare.plain import one_line
from perception.compare.plots import legend, svg, swatch
from perception.compare.verdict_files import replace_text

MOST_BYTES = 5_500_000
"""The page ends its pictures, then its plots, before it is larger."""
_LISTED = 200  # findings of a comparison


def write_html(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Raises OSError where it can't be written; a page that is there is replaced at once or not at all."""
    replace_text(path, html_of(comparisons))


def html_of(comparisons: Sequence[Comparison]) -> str:
    """The page. Every name out of a recording is escaped; the policy lets nothing but our style and images in."""
    style = files("perception.compare").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    different = sum(not comparison.is_same for comparison in comparisons)
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{'different' if different else 'same'}: perception compare</title><style>{style}</style></head><body>"
    )
    body = _overview(comparisons, different) if len(comparisons) != 1 else ""
    budget = MOST_BYTES - len(head) - len(body)
    parts = []
    for k, comparison in enumerate(comparisons):
        # what one comparison leaves of its share goes to those after it
        part = _section(comparison, k, budget // (len(comparisons) - k))
        budget -= len(part.encode())
        parts.append(part)
    return "\n".join((head, body, *parts, "</body></html>\n"))


def _overview(comparisons: Sequence[Comparison], different: int) -> str:
    rows = []
    for k, c in enumerate(comparisons):
        verdict = "same" if c.is_same else f"{len(c.findings)} findings"
        rows.append(
            f'<tr><td class="text"><a href="#d{k}">{_text(c.candidate)}</a></td>'
            f'<td class="text {"good" if c.is_same else "bad"}">{verdict}</td><td>{c.frames}</td></tr>'
        )
    return (
        f"<h1>{different} of {len(comparisons)} drives differ</h1>"
        f'<div class="wide"><table><tr><th>drive</th><th class="text">verdict</th><th>frames</th></tr>'
        f"{''.join(rows)}</table></div>"
    )


def _section(c: Comparison, k: int, budget: int) -> str:
    first = [f'<section class="drive" id="d{k}">', *_verdict(c), *_findings(c, k), *classes(c)]
    last = [*tables(c), "</section>"]
    spent = sum(len(part.encode()) for part in (*first, *last))
    middle = []
    for title, group, found in (
        ("Over time", "plots", _plots(c, k)),
        ("The frames that differ most", "frames", _frames(c, k)),
    ):
        kept = []
        for part in found:
            spent += len(part.encode())
            if spent > budget:
                break
            kept.append(part)
        if kept:
            middle += [f'<h2>{title}</h2><div class="{group}">', *kept, "</div>"]
    return "".join((*first, *middle, *last))


def _verdict(c: Comparison) -> Iterable[str]:
    count = len(c.findings)
    word = '<span class="good">same</span>' if c.is_same else f'<span class="bad">different: {count} findings</span>'
    skipped = sorted({(check.kind, check.skipped) for check in c.checks if check.skipped})
    yield f'<h1 class="verdict">{word}</h1>'
    yield f"<p>A, the reference: <code>{_text(c.reference)}</code> ({_text(c.about[0].mode)})<br>"
    yield f"B, the candidate: <code>{_text(c.candidate)}</code> ({_text(c.about[1].mode)})</p>"
    yield f"<p>Camera {_text(c.about[0].camera)}, {c.frames} frames over {c.seconds:.1f} s, matched by {c.matching.by}"
    yield f" ({_text(c.matching.why)}). Tolerance: <b>{c.tolerance.level}</b> ({_text(c.why)}).</p>"
    for kind, why in skipped:
        yield f'<p class="soft">Not judged: {_text(kind)}, {_text(why)}.</p>'
    for note in c.notes:
        yield f'<p class="soft">{_text(note)}</p>'


def _findings(c: Comparison, k: int) -> Iterable[str]:
    if c.is_same:
        return
    drawn = {picture.frame for picture in c.pictures}
    yield '<h2>Findings</h2><ol class="findings">'
    for finding in c.findings[:_LISTED]:
        yield f"<li>{_text(finding.text)}{_link(finding, drawn, k)}</li>"
    yield "</ol>"
    if len(c.findings) > _LISTED:
        yield f"<p>and {len(c.findings) - _LISTED} more, all of them in the JSON</p>"


def _link(finding: Finding, drawn: set[int], k: int) -> str:
    if finding.kind == "latency":
        return f' <a href="#d{k}-{finding.kind}">see plot</a>'
    return f' <a href="#d{k}-f{finding.worst}">see frame</a>' if finding.worst in drawn else ""


def _plots(c: Comparison, k: int) -> Iterable[str]:
    for plot in c.plots:
        caption = f"<figcaption>{_text(plot.title)}</figcaption>"
        yield f'<figure class="plot" id="d{k}-{plot.kind}">{caption}{svg(plot)}{legend(plot)}</figure>'


def _key() -> str:
    """What the pictures show."""
    marks = ((DIFFERS, "other pixels"), (VANISHED, "things that only A has"))
    marks += ((APPEARED, "things that only B has"), (CHANGED, "things of another id or class"))
    told = "".join(f"<span>{swatch(colour)} {name}</span>" for colour, name in marks)
    return f'<p class="soft">A, the reference; B, the candidate; and what differs:</p><p class="legend">{told}</p>'


def _frames(c: Comparison, k: int) -> Iterable[str]:
    for n, picture in enumerate(c.pictures):
        told = [f.text for f in c.findings if f.worst == picture.frame]
        lines = "".join(f"<p>{_text(text)}</p>" for text in told[:5])
        key = _key() if n == 0 else ""
        yield (
            f'{key}<div class="frame" id="d{k}-f{picture.frame}"><h3>Frame {picture.seq}, {picture.seconds:.2f} s: '
            f'{_text(picture.note)}</h3>{lines}<div class="views">{_views(picture)}</div></div>'
        )


def _views(picture: Picture) -> str:
    views = (("A", picture.a), ("B", picture.b), ("difference", picture.difference))
    return "".join(
        f'<figure><img loading="lazy" alt="{name} of frame {picture.seq}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"><figcaption>{name}</figcaption></figure>'
        for name, jpeg in views
    )


def _text(value: object) -> str:
    return escape(one_line(str(value)))
