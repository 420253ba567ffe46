"""Clips out of rendered drives: real occlusions and crossings, exact ids."""

from __future__ import annotations

import numpy as np

from perception.drives.rendered import RenderedDrive
from perception.opencv import cv2
from perception.training.propagator.clip import SIZE, Clip, largest_first, small_ids

RATES = (30.0, 15.0, 10.0, 7.5)  # [Hz] the faster the camera, the smaller the steps
LONGEST_S = 60.0
LEAST_PX = 20  # at 1/2: smaller things are specks at 1/16


def rendered_clip(seed: int, frames: int, slots: int) -> Clip:
    """`frames` consecutive frames of the drive of this seed, somewhere in its first minute."""
    rng = np.random.default_rng([seed, 17])
    rate = float(rng.choice(RATES))
    start = int(rng.integers(0, int(LONGEST_S * rate)))
    images, maps, stamps = [], [], []
    for frame in RenderedDrive(seed, 640, 360, fps=rate, frames=frames, start=start):
        assert frame.truth is not None
        images.append(cv2.resize(frame.image, SIZE, interpolation=cv2.INTER_LINEAR))
        maps.append(small_ids(frame.truth.instances))
        stamps.append(frame.stamp_ns / 1e9)
    return Clip(np.stack(images), largest_first(np.stack(maps), slots, LEAST_PX), np.array(stamps, np.float32))
