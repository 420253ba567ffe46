"""Losses and pixel weights that come from instances (Panoptic-DeepLab, Cheng et al. 2020; U-Net, 2015).

Beside a semantic loss of weight 1, Panoptic-DeepLab weighs the centres 200 and the offsets 0.01.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from perception.opencv import cv2
from perception.training.losses.pixelwise import as_exact
from perception.training.targets import SMALL, UNKNOWN

LEAST_WEIGHT = 1e-3  # of all cells together; a batch without things has none


def centre_loss(heat: Tensor, target: Tensor, is_known: Tensor) -> Tensor:
    """Mean squared error of the centre heat over the cells with `is_known` 1; all (n, 1, h, w)."""
    heat, target, is_known = map(as_exact, (heat, target, is_known))
    return (is_known * (heat - target) ** 2).sum() / is_known.sum().clamp_min(1)


def offset_loss(offset: Tensor, target: Tensor, is_thing: Tensor) -> Tensor:
    """Mean absolute error [px] of both components, (n, 2, h, w), weighted by `is_thing` (n, 1, h, w) >= 0."""
    offset, target, is_thing = map(as_exact, (offset, target, is_thing))
    return (is_thing * (offset - target).abs()).sum() / (2 * is_thing.sum()).clamp_min(LEAST_WEIGHT)


def small_instance_weights(
    instances: NDArray[np.uint16], factor: float = 3.0, small: int = SMALL
) -> NDArray[np.float32]:
    """(h, w) `factor` on the pixels of instances of less than `small` pixels, 1 elsewhere; UNKNOWN is no instance."""
    area = np.bincount(instances.ravel(), minlength=UNKNOWN + 1)
    is_small = area < small
    is_small[[0, UNKNOWN]] = False
    return np.where(is_small[instances], np.float32(factor), np.float32(1))


def border_weights(instances: NDArray[np.uint16], w0: float = 10.0, sigma: float = 5.0) -> NDArray[np.float32]:
    """(h, w) 1 + w0 exp(-(d1 + d2)^2 / (2 sigma^2)) on the background, 1 on instances and UNKNOWN pixels.

    d1 and d2 are the distances to the nearest and the second nearest instance [px] (Ronneberger et al. 2015,
    equation 2; its class balance w_c is `cross_entropy`'s `class_weight`). With fewer than two instances all is 1.
    Instances that touch have no background between them to learn: erode them first, as U-Net's authors did.
    """
    nearest = np.full((2, *instances.shape), np.inf, np.float32)
    for number in np.unique(instances):
        if number not in (0, UNKNOWN):
            outside = (instances != number).view(np.uint8)
            distance = np.asarray(cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
            nearest[1] = np.minimum(nearest[1], np.maximum(nearest[0], distance))
            nearest[0] = np.minimum(nearest[0], distance)
    border = w0 * np.exp(-((nearest[0] + nearest[1]) ** 2) / (2 * sigma**2))
    return np.where(instances == 0, 1 + border, 1).astype(np.float32)
