"""Losses that know how far a wrong pixel is from the border: distances in pixels, computed without a gradient.

Neither is to be used alone, and both papers add a loss of overlap: a thin class is never far from its own border, so
that missing all of it costs next to nothing here. See docs/losses.md.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.opencv import cv2
from perception.training.label_set import IGNORE
from perception.training.losses.overlap import one_hot
from perception.training.losses.pixelwise import as_exact


def signed_distance(inside: NDArray[np.bool_], outside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of each pixel's centre to the border between two sets of pixels [px]: negative inside, else positive.

    The border lies half a pixel from the pixels along it. Pixels of neither set (ignored ones) are 0 and border
    nothing; where one of the sets is empty there is no border and all is 0.
    """
    distance = np.zeros(inside.shape, np.float32)
    if inside.any() and outside.any():
        distance[outside] = _to_nearest(inside)[outside] - 0.5
        distance[inside] = 0.5 - _to_nearest(outside)[inside]
    return distance


def boundary_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over labelled pixels of sum over classes of probability x signed distance of the truth [px].

    Kervadec et al. 2019. The least value is negative; a class that a picture lacks, or has everywhere, has no border
    there and takes no part.
    """
    logits, valid = as_exact(logits), target != IGNORE
    truth = one_hot(target, logits.shape[1], torch.bool)
    distance = _signed_distances(truth, valid).to(logits)
    return (logits.softmax(1) * distance).sum() / valid.sum().clamp_min(1)


def hausdorff_loss(logits: Tensor, target: Tensor, alpha: float = 2.0) -> Tensor:
    """Mean over labelled pixels of sum over classes of (p - g)^2 (d_truth^alpha + d_prediction^alpha) [px^alpha].

    Karimi & Salcudean 2019, the form with distance transforms: d are the distances to the border of the truth and to
    that of the prediction (p > 1/2), inside and out. A side without a border adds nothing.
    """
    logits, valid = as_exact(logits), target != IGNORE
    p = logits.softmax(1)
    truth = one_hot(target, logits.shape[1], torch.bool)
    said = (p.detach() > 0.5) & valid.unsqueeze(1)
    weight = _signed_distances(truth, valid).abs() ** alpha + _signed_distances(said, valid).abs() ** alpha
    error = (p - truth.to(p)) ** 2  # the distances are 0 on ignored pixels
    return (error * weight.to(logits)).sum() / valid.sum().clamp_min(1)


def _signed_distances(masks: Tensor, valid: Tensor) -> Tensor:
    """(n, c, h, w) bool, (n, h, w) bool -> (n, c, h, w) float32 on the CPU."""
    inside, known = masks.cpu().numpy(), valid.cpu().numpy()
    distances = np.zeros(inside.shape, np.float32)
    for n, k in np.ndindex(inside.shape[:2]):
        distances[n, k] = signed_distance(inside[n, k], known[n] & ~inside[n, k])
    return torch.from_numpy(distances)


def _to_nearest(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of each pixel to the nearest one of a mask [px]."""
    return np.asarray(cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
