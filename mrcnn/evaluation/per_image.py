"""Scores of detections: matterport's AP of single images, and COCO's of a data set.

Letters used below: G ground truth instances and P predictions of one image, H and W its rows
and columns. A box is (y1, x1, y2, x2) in pixels of the image, y2/x2 exclusive.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from msgspec import structs

from mrcnn.coco.ground_truth import GroundTruth, read_ground_truth, read_results
from mrcnn.core import boxes
from mrcnn.core.boxes import compute_overlaps_masks, trim_zeros
from mrcnn.evaluation.average_precision import (
    accumulate,
    compute_overlaps,
    make_views,
    match_detections,
    mean,
    summary,
)


def compute_matches(
    gt_boxes: np.ndarray,
    gt_class_ids: np.ndarray,
    gt_masks: np.ndarray,
    pred_boxes: np.ndarray,
    pred_class_ids: np.ndarray,
    pred_scores: np.ndarray,
    pred_masks: np.ndarray,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs predictions with ground truth, the best prediction choosing first.

    Args:
        gt_boxes: [G, (y1, x1, y2, x2)]; all-zero rows at the end are padding, here and in
            pred_boxes, and drop out with what belongs to them.
        gt_class_ids: [G] int.
        gt_masks: [H, W, G] bool.
        pred_boxes: [P, (y1, x1, y2, x2)].
        pred_class_ids: [P] int.
        pred_scores: [P].
        pred_masks: [H, W, P] bool.
        iou_threshold: least IoU of the masks.
        score_threshold: despite its name a second bound on the IoU, as in the original.

    Returns:
        gt_match: [G] float64, the matching prediction, -1 without one. Predictions are counted
            by descending score, from here on too.
        pred_match: [P] float64, the matching ground truth instance, -1 without one.
        overlaps: [P, G] IoU of the masks.
    """
    gt_count, pred_count = len(trim_zeros(gt_boxes)), len(trim_zeros(pred_boxes))
    order = np.argsort(pred_scores[:pred_count], kind="stable")[::-1]
    classes = np.asarray(pred_class_ids)[order]
    overlaps = compute_overlaps_masks(
        np.asarray(pred_masks)[..., order], np.asarray(gt_masks)[..., :gt_count]
    )
    gt_match, pred_match = np.full(gt_count, -1.0), np.full(pred_count, -1.0)
    least = np.float64(max(iou_threshold, score_threshold))  # not rounded to float32
    for i, row in enumerate(overlaps):
        fits = (row >= least) & (gt_match < 0)
        fits &= np.asarray(gt_class_ids)[:gt_count] == classes[i]
        if fits.any():
            best = np.where(fits, row, -1).argmax()
            gt_match[best], pred_match[i] = i, best
    return gt_match, pred_match, overlaps


def compute_ap(
    gt_boxes: np.ndarray,
    gt_class_ids: np.ndarray,
    gt_masks: np.ndarray,
    pred_boxes: np.ndarray,
    pred_class_ids: np.ndarray,
    pred_scores: np.ndarray,
    pred_masks: np.ndarray,
    iou_threshold: float = 0.5,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Average precision of one image (VOC's: the area under the precision-recall curve).

    Args: as of `compute_matches`.

    Returns:
        mAP: 0 without ground truth or without predictions.
        precisions: [P + 2] precision after each prediction, made to fall; 0 at both ends.
        recalls: [P + 2] recall after each prediction, between 0 and 1 at the ends.
        overlaps: [P, G] IoU of the masks, predictions by descending score.
    """
    gt_match, pred_match, overlaps = compute_matches(
        gt_boxes,
        gt_class_ids,
        gt_masks,
        pred_boxes,
        pred_class_ids,
        pred_scores,
        pred_masks,
        iou_threshold,
    )
    hits = np.cumsum(pred_match > -1)
    precisions = np.concatenate([[0], hits / (np.arange(len(hits)) + 1), [0]])
    recalls = np.concatenate([[0], hits / max(1, len(gt_match)), [1]])
    precisions = np.maximum.accumulate(precisions[::-1])[::-1]
    return np.sum(np.diff(recalls) * precisions[1:]), precisions, recalls, overlaps


def compute_ap_range(
    gt_box: np.ndarray,
    gt_class_id: np.ndarray,
    gt_mask: np.ndarray,
    pred_box: np.ndarray,
    pred_class_id: np.ndarray,
    pred_score: np.ndarray,
    pred_mask: np.ndarray,
    iou_thresholds: Sequence[float] | np.ndarray | None = None,
    verbose: int = 1,
) -> float:
    """Mean of `compute_ap` over several IoU thresholds.

    Args:
        iou_thresholds: by default 0.5, 0.55, ... 0.95.
        verbose: 1 prints the AP at each threshold and the mean.
        the others as of `compute_matches`.
    """
    thresholds = np.arange(0.5, 1.0, 0.05) if iou_thresholds is None else iou_thresholds
    truth = (gt_box, gt_class_id, gt_mask)
    predicted = (pred_box, pred_class_id, pred_score, pred_mask)
    scores = [compute_ap(*truth, *predicted, iou_threshold=float(t))[0] for t in thresholds]
    average = np.float64(np.mean(scores))
    if verbose:
        for threshold, score in zip(thresholds, scores, strict=True):
            print(f"AP @{threshold:.2f}:\t {score:.3f}")
        print(f"AP @{thresholds[0]:.2f}-{thresholds[-1]:.2f}:\t {average:.3f}")
    return average


def compute_recall(
    pred_boxes: np.ndarray, gt_boxes: np.ndarray, iou: float
) -> tuple[float, np.ndarray]:
    """Share of ground truth boxes that are some prediction's best overlap.

    Args:
        pred_boxes: [P, (y1, x1, y2, x2)] in any frame.
        gt_boxes: [G, (y1, x1, y2, x2)] in the same frame.
        iou: least IoU.

    Returns:
        recall: in 0..1, 0 without ground truth.
        positive_ids: int, predictions that overlap a ground truth box so much.
    """
    overlaps = boxes.compute_overlaps(pred_boxes, gt_boxes)
    if 0 in overlaps.shape:
        return 0.0, np.zeros(0, np.int64)
    positive_ids = np.flatnonzero(overlaps.max(axis=1) >= iou)
    found = np.unique(overlaps[positive_ids].argmax(axis=1))
    return len(found) / overlaps.shape[1], positive_ids


def coco_scores(
    annotations: str | os.PathLike[str] | dict[str, Any] | GroundTruth | Any,
    results: list[dict[str, Any]],
    kinds: Sequence[str] = ("bbox", "segm"),
    image_ids: Iterable[int | str] | None = None,
) -> dict[str, dict[str, Any]]:
    """COCO's average precision and recall: watched while training, and handy in scripts.

    Args:
        annotations: path of a COCO json, its content, a loaded `pycocotools.coco.COCO`, or the
            `GroundTruth` that `read_ground_truth` made of it, which saves reading it each time.
        results: in COCO's result format: dicts of image_id, category_id, score, bbox
            [x, y, width, height] in pixels and segmentation (RLE or polygons). bbox or
            segmentation may be left out if kinds doesn't ask for it; a missing bbox is taken
            from the segmentation.
        kinds: of "bbox" and "segm", which to score.
        image_ids: images to score, by default all. Results of others are left out.

    Returns:
        {kind: {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm",
        "ARl": float in 0..1, "per_class": {category name: AP}}}; None where there is no ground
        truth (of this size or class). The size of a detection is that of its mask for "segm",
        that of its box for "bbox".

    Raises:
        ValueError: if a result, or image_ids, refers to an image or category that the
            annotations don't have, a kind is unknown, a score is no finite number, or a result
            lacks what a kind needs.
    """
    truth = read_ground_truth(annotations, image_ids)
    detections = read_results(truth, results, masks="segm" in kinds)
    views = make_views(truth, subsets=False)
    scores = {}
    for kind in kinds:
        overlaps = compute_overlaps(truth, detections, kind)
        found = accumulate(match_detections(truth, detections, kind, views, overlaps))
        per_class = {n: mean(found.precision[:, :, k, 0]) for k, n in enumerate(truth.names)}
        scores[kind] = structs.asdict(summary(found)) | {"per_class": per_class}
    return scores
