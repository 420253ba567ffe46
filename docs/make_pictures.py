"""Makes the pictures of README and docs: `python docs/make_pictures.py [drives] [animation] [view] [training]`.

All without a name. They are made with perception's own commands, of rendered drives that the network has not seen.
"""

from __future__ import annotations

import asyncio
import csv
import re
import subprocess
import sys
import tempfile
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import av
import numpy as np

from perception.opencv import cv2

TILE = (640, 360)  # width, height [px]
DOCS = Path(__file__).parent
STAGES = (
    "1: DeepLabV3+\n480x360",
    "2: RealtimePanoptic\n640x352",
    "3: half a\npixel",
    "4: all layers\nhalf of val",
    "5: decoders\na quarter of val",
    "6: decoders",
    "7: four times\nthe IDD",
    "8: half\nrendered",
)
CURVES = ("miou", "lane marking", "pedestrian", "car", "sign", "pole")
SEEDS_AND_SECONDS = ((0, 9.9), (21, 4.9), (8, 6.9), (5, 2.9))
ANIMATED = ("rendered:?seed=21&frames=210", 2.5, 6.5)  # drive, from and to [s]
ANIMATION_FPS = 10
VIEWED = "rendered:?seed=21"
TOPICS = ("panoptic", "road", "lane", "pedestrian")


def perception(*words: object) -> None:
    """Run a command of perception; raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", "perception.cli", *map(str, words)], check=True)


def drives() -> Path:
    """The README's picture, by `perception picture`."""
    tiles = []
    with tempfile.TemporaryDirectory() as folder:
        for seed, seconds in SEEDS_AND_SECONDS:
            tile = Path(folder) / f"{seed}.png"
            perception("picture", f"rendered:?seed={seed}&frames=300", "--at", seconds, "-o", tile, "--no-strip")
            tiles.append(cv2.resize(cv2.imread(str(tile)), TILE, interpolation=cv2.INTER_AREA))
    out = DOCS / "drives.jpg"
    whole = np.vstack([np.hstack(tiles[:2]), np.hstack(tiles[2:])])
    cv2.imwrite(str(out), whole, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return out


def animation() -> Path:
    """The README's animation: what `perception video` makes, as an animated WebP that repeats."""
    drive, begin_s, end_s = ANIMATED
    out = DOCS / "drive.webp"
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "drive.mp4"
        perception("video", drive, "-o", film, "--from", begin_s, "--to", end_s, "--scale", 0.5)
        with av.open(str(film)) as video, av.open(str(out), "w", format="webp", options={"loop": "0"}) as container:
            _repack(video, container)
    return out


def _repack(video: av.container.InputContainer, container: av.container.OutputContainer) -> None:
    looks = {"quality": "62", "compression_level": "3"}
    stream = container.add_stream("libwebp_anim", rate=ANIMATION_FPS, options=looks)
    source = video.streams.video[0]
    stream.width, stream.height, stream.pix_fmt = source.width, source.height, "yuv420p"
    due = Fraction(0)
    for frame in video.decode(video=0):
        at = Fraction(frame.pts or 0) * (frame.time_base or 0)
        if at < due:
            continue
        shown = frame.reformat(format="yuv420p")
        shown.time_base = Fraction(1, ANIMATION_FPS)
        shown.pts = round(due * ANIMATION_FPS)
        due += Fraction(1, ANIMATION_FPS)
        container.mux(stream.encode(shown))
    container.mux(stream.encode())


def view() -> Path:
    """The live view in a headless Chromium, beside a node that plays a drive: `perception replay DRIVE --view`."""
    from perception.bench.browser import browsing

    async def photograph(link: str, out: Path) -> None:
        async with browsing() as tab:
            await tab.resize(1280, 800)
            await tab.open(link)
            await tab.until("view.shown && view.shown.bitmap && view.play", 120)
            await tab.until("view.play.position_s > 2.5", 400)
            await tab.evaluate("(pause(), follow(view.shown.tracks[0].id))")
            await tab.until("view.play.is_paused && $('banner').hidden", 30)
            await asyncio.sleep(1)
            await tab.screenshot(out)

    out = DOCS / "view.jpg"
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "perception.cli", "replay", VIEWED, "--view", "-e", f"ipc://{folder}/s/front"]
        node = subprocess.Popen([*words, *(f"--topic={topic}" for topic in TOPICS)], stderr=subprocess.PIPE, text=True)
        try:
            links = (found for line in node.stderr or () if (found := re.search(r"open (\S+)", line)))
            link = next(links)[1]
            picture = Path(folder) / "view.png"
            asyncio.run(photograph(link, picture))
        finally:
            node.terminate()
            node.communicate()
        cv2.imwrite(str(out), cv2.imread(str(picture)), [cv2.IMWRITE_JPEG_QUALITY, 86])
    return out


def training() -> Path:
    """Validation IoU of the default network over its training, from road-training.csv; its stages side by side."""
    import matplotlib.pyplot as plt

    rows = list(csv.DictReader((DOCS / "road-training.csv").open()))
    stages = [list(group) for _, group in groupby(rows, lambda row: row["stage"])]
    widths = [max(6, len(stage)) for stage in stages]  # room for the titles
    figure, axes = plt.subplots(1, len(stages), sharey=True, width_ratios=widths, figsize=(13, 4), layout="constrained")
    for axis, stage, title in zip(axes, stages, STAGES, strict=True):
        steps = [int(row["step"]) for row in stage]
        for name in CURVES:
            style = {"linewidth": 2.5, "color": "black"} if name == "miou" else {}
            axis.plot(steps, [100 * float(row[name]) for row in stage], label=name, marker=".", **style)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("IoU on CamVid val, averaged weights [%]")
    names = ["mean of 12 classes", *CURVES[1:]]
    figure.legend(axes[0].lines, names, loc="outside lower center", ncols=len(names), frameon=False)
    out = DOCS / "road-training.png"
    figure.savefig(out, dpi=110)
    return out


def main() -> None:
    makers = {"drives": drives, "animation": animation, "view": view, "training": training}
    for name in sys.argv[1:] or makers:
        print(makers[name]())


if __name__ == "__main__":
    main()
