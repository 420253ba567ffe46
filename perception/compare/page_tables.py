"""The tables of the HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from perception.compare.comparison import Comparison
from perception.compare.plain import one_line
from perception.evaluation.boundary import TOLERANCES


def classes(c: Comparison) -> Iterator[str]:
    """A row for each class."""
    if not c.classes:
        return
    borders = (f"F {t} px" for t in TOLERANCES)
    heads = ("topic", "class", "IoU, all pixels", "mean of frames", "least", "in frame", "frames", *borders)
    rows = []
    for r in c.classes:
        figures = map(share, (r.pooled_iou, r.mean_iou, r.least_iou))
        f = (share(r.boundary_f[t]) for t in TOLERANCES)
        rows.append((r.topic, r.name, *figures, r.least_frame, r.frames, *f))
    yield f'<h2>Classes</h2><p class="soft">F: boundary F</p>{_table(heads, rows, texts=2)}'


def tables(c: Comparison) -> Iterator[str]:
    """Things and frames, latency, messages, and what the two runs were."""
    yield "<h2>Things and frames</h2>" + _table(("", "A", "B"), counts(c))
    if c.latency:
        yield f"<h2>Latency</h2><p>p50 / p90 / p99 in ms</p>{_latency(c)}"
    yield f"<h2>Messages</h2>{_messages(c)}"
    yield f"<p>Digest of all messages: A <code>{c.digests[0]}</code><br>B <code>{c.digests[1]}</code></p>"
    yield "<h2>The two runs</h2>" + _table(("", "A", "B"), runs_of(c), texts=3)


def _latency(c: Comparison) -> str:
    rows = [(r.stage, times(r.a), times(r.b), ms(r.b[0] - r.a[0]), ms(r.b[2] - r.a[2]), r.source) for r in c.latency]
    return _table(("stage", "A", "B", "shift of p50", "of p99", "from"), rows)


def _messages(c: Comparison) -> str:
    heads = ("topic", "equal bytes", "other bytes", "first in frame", "only A", "only B", "in what they differ")
    rows = []
    for r in c.topics:
        first = "-" if r.first_different is None else r.first_different
        parts = ", ".join(f"{name} ({n})" for name, n in sorted(r.parts.items(), key=lambda part: -part[1]))
        rows.append((r.topic, r.equal, r.different, first, r.only_a, r.only_b, parts or "-"))
    return _table(heads, rows)


def counts(c: Comparison) -> list[tuple[object, ...]]:
    """Things and frames, of A and of B."""
    rows: list[tuple[object, ...]] = [
        ("frames matched", c.frames, c.frames),
        ("frames that the other has not", *c.unmatched),
        *((f"captured frames {w}", *(d.get(w, 0) for d in c.decided)) for w in sorted({*c.decided[0], *c.decided[1]})),
        ("things, counted by frame", c.things["a"], c.things["b"]),
        ("without counterpart (vanished, appeared)", c.things["vanished"], c.things["appeared"]),
        ("id switches of B against A", "", c.things["id_switches"]),
    ]
    return rows


def runs_of(c: Comparison) -> list[tuple[object, ...]]:
    """What the two recordings say of themselves."""
    a, b = c.about
    names = ("mode", "model", "model_id", "engine", "source", "run", "clock")
    rows: list[tuple[object, ...]] = [
        (name.replace("_", " "), getattr(a, name) or "-", getattr(b, name) or "-") for name in names
    ]
    rows.append(("processor", a.machine.cpu or "-", b.machine.cpu or "-"))
    ours, theirs = a.machine.versions, b.machine.versions
    return rows + [
        (f"version of {n}", ours.get(n, "-"), theirs.get(n, "-")) for n in sorted(ours.keys() | theirs.keys())
    ]


def share(value: float) -> str:
    """A share of 1 that never rounds up to 1."""
    if value != value:
        return "-"
    return "1" if value == 1 else f"{min(value, 0.9999):.4f}"


def times(values: tuple[float, float, float]) -> str:
    return " / ".join("-" if v != v else f"{v:.1f}" for v in values)


def ms(value: float) -> str:
    return "-" if value != value else f"{value:+.1f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]], texts: int = 1) -> str:
    """The first `texts` columns, and the last where it is long, are words."""

    def cell(k: int, value: object) -> str:
        is_text = k < texts or (isinstance(value, str) and len(value) > 40)
        return f"<td{' class=text' if is_text else ''}>{escape(one_line(str(value)))}</td>"

    head = "".join(f"<th{' class=text' if k < texts else ''}>{escape(h)}</th>" for k, h in enumerate(heads))
    body = "".join(f"<tr>{''.join(cell(k, v) for k, v in enumerate(row))}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
