"""A node's recording in a process of its own, to be killed: `python tests/kill_recorder.py FOLDER`.

Says the seq of each frame on its standard output when it is captured.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import numpy as np

from perception.clock import boot_id
from perception.drives.layout import About, Decision, StateRow
from perception.sinks.messages import SceneEncoder
from perception.sinks.recorder import Recorder, RecordSettings
from perception.types import Frame
from tests import published

PERIOD_S = 1 / 60


def main(folder: Path) -> None:
    offset_ns = time.time_ns() - time.monotonic_ns()
    about = About("recording-1", "front", "run-1", boot_id(), offset_ns)
    recorder = Recorder(folder, about, RecordSettings(segment_s=0.3, least_free_bytes=0))
    encoder = SceneEncoder(published.identity(), published.topics())
    image = np.random.default_rng(0).integers(0, 255, (180, 320, 3), np.uint8)
    begin = time.monotonic()
    for seq in itertools.count():
        time.sleep(max(0, begin + seq * PERIOD_S - time.monotonic()))
        stamp_ns = time.monotonic_ns()
        recorder.captured(Frame(seq, stamp_ns, "front", image), stamp_ns)
        sys.stdout.write(f"{seq}\n")
        sys.stdout.flush()
        messages = encoder.encode(published.scene(seq, stamp_ns=stamp_ns))
        recorder.sent(messages, time.monotonic_ns() + offset_ns)
        recorder.decided(Decision(seq, stamp_ns, "stepped", network=True))
        if recorder.wants_state():
            recorder.state(StateRow(seq, stamp_ns, seq + 1, {}, 0, b"", bytes(100_000)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
