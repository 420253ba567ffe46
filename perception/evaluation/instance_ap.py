"""COCO mask AP of things, computed by pycocotools itself."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.extra import load_extra
from perception.evaluation.segments import SegmentMap


class InstanceAP:
    """Average precision of instance masks: IoU 0.50:0.95, 101 recall points, at most 100 detections an image.

    Crowds of the truth are COCO's `iscrowd`: a detection that lies on one is ignored, not wrong. Void is passed on as
    a crowd of every class, for COCO itself knows no void.

    Args:
        classes: class ids to score, the things of which the truth tells instances apart.

    Raises:
        ConfigError: pycocotools is not installed.
    """

    def __init__(self, classes: Collection[int]) -> None:
        self.classes = sorted(classes)
        self._rle = load_extra("pycocotools.mask", "mask AP")
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._run: Any = None

    def add(self, truth: SegmentMap, predicted: SegmentMap) -> None:
        """Count one image; the two maps have one shape."""
        self._run = None
        height, width = truth.ids.shape
        self._images.append({"id": len(self._images) + 1, "height": height, "width": width})
        for k in np.flatnonzero(np.isin(truth.class_ids, self.classes)).tolist():
            self._annotate(self._truth, truth.ids == k + 1, int(truth.class_ids[k]), iscrowd=int(truth.is_crowd[k]))
        void = truth.ids == 0
        if void.any():
            for class_id in self.classes:
                self._annotate(self._truth, void, class_id, iscrowd=1)
        for k in self._in_reading_order(predicted).tolist():
            score = float(predicted.scores[k])
            self._annotate(self._found, predicted.ids == k + 1, int(predicted.class_ids[k]), iscrowd=0, score=score)

    def coco_stats(self) -> NDArray[np.float64]:
        """COCO's twelve figures: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl.

        -1 where the truth has nothing of that kind; all 0 before any image was added.
        """
        if not self._images:
            return np.zeros(12)
        run = self._evaluate()
        with contextlib.redirect_stdout(io.StringIO()):
            run.summarize()
        return np.asarray(run.stats, np.float64)

    def by_class(self) -> dict[int, tuple[float, float]]:
        """(AP, AP50) of each class; NaN where the truth has no instance of it."""
        if not self._images:
            return dict.fromkeys(self.classes, (float("nan"), float("nan")))
        precision = self._evaluate().eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class), all areas, 100 found
        values = np.where(precision < 0, np.nan, precision).mean(1)
        return {c: (float(values[:, k].mean()), float(values[0, k])) for k, c in enumerate(self.classes)}

    def _in_reading_order(self, predicted: SegmentMap) -> NDArray[np.int64]:
        """Scored segments by their first pixel: AP depends on the order of equal scores, and numbers mean nothing."""
        first = np.full(len(predicted) + 1, predicted.ids.size)
        first[predicted.ids.ravel()[::-1]] = np.arange(predicted.ids.size)[::-1]  # the last write of a number stays
        order = np.argsort(first[1:], kind="stable")
        return order[np.isin(predicted.class_ids[order], self.classes)]

    def _annotate(
        self, to: list[dict[str, Any]], mask: NDArray[np.bool_], class_id: int | np.integer, **more: float
    ) -> None:
        rle = self._rle.encode(np.asfortranarray(mask, np.uint8))
        box = self._rle.toBbox(rle).tolist()
        # Ids start at 1: pycocotools takes a match with annotation 0 for no match.
        known = {"id": len(to) + 1, "image_id": len(self._images), "category_id": class_id}
        to.append(known | {"segmentation": rle, "area": int(mask.sum()), "bbox": box} | more)

    def _evaluate(self) -> Any:
        """pycocotools' accumulated run over all images added so far."""
        if self._run is not None:
            return self._run
        coco = load_extra("pycocotools.coco", "mask AP")
        cocoeval = load_extra("pycocotools.cocoeval", "mask AP")
        categories = [{"id": c} for c in self.classes]
        sides = []
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            for annotations in (self._truth, self._found):
                side = coco.COCO()
                side.dataset = {"images": self._images, "annotations": annotations, "categories": categories}
                side.createIndex()
                sides.append(side)
            run = cocoeval.COCOeval(*sides, iouType="segm")
            run.evaluate()
            run.accumulate()
        self._run = run
        return run
