"""Siblings: classes that differ in a detail such as the sleeves, and a second opinion on them.

A `SiblingHead` is a linear classifier of a garment's own features (`mrcnn.siblings.sleeves`
computes them). It may overrule the detected class, but only by a sibling, and only if it is sure.

Letters in shapes: C classes, background included, F features of a garment, N detections of an
image, D >= N rows with the padding, S side of a mask.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from mrcnn.core.boxes import compute_overlaps

# The group beside the layers' in a weights file; other readers ignore it.
GROUP = "sleeve_head"
# Classes by what tells them apart.
GROUPS = (
    ("short_sleeved_shirt", "long_sleeved_shirt", "vest", "sling"),
    ("short_sleeved_outwear", "long_sleeved_outwear"),
    ("short_sleeved_dress", "long_sleeved_dress", "vest_dress", "sling_dress"),
    ("shorts", "trousers", "skirt"),
)


def sibling_table(
    class_names: Sequence[str], groups: Iterable[Iterable[str]] = GROUPS
) -> np.ndarray:
    """Which classes are siblings: bool [C, C], True for a class and itself if it is in a group."""
    number = {name: i for i, group in enumerate(groups) for name in group}
    ids = np.array([number.get(name, -1) for name in class_names])
    return (ids[:, None] == ids[None, :]) & (ids[:, None] >= 0)


@dataclass(frozen=True)
class SiblingHead:
    """A linear classifier among siblings.

    Attributes:
        kernel: [F, C] float32.
        bias: [C] float32.
        siblings: [C, C] bool, as from `sibling_table`.
        margin: the detected class is overruled if a sibling's probability is larger than its own
            by more than this, 0 to 1. 1 overrules nothing.
    """

    kernel: np.ndarray
    bias: np.ndarray
    siblings: np.ndarray
    margin: float

    def __post_init__(self) -> None:
        count = self.kernel.shape[-1]
        shapes = [self.kernel.shape[1:], self.bias.shape, self.siblings.shape]
        if shapes != [(count,), (count,), (count, count)]:
            raise ValueError(
                f"kernel {self.kernel.shape}, bias {self.bias.shape} and siblings "
                f"{self.siblings.shape} don't fit; give [F, C], [C] and [C, C]"
            )
        if not 0 <= self.margin <= 1:
            raise ValueError(f"margin is {self.margin}; give 0 to 1")

    def probabilities(self, features: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
        """Of each class, given that the garment is of a sibling class of the detected one.

        features [N, F], detected class_ids [N] -> [N, C] float32; 0 for classes without siblings.
        """
        logits = np.asarray(features, np.float32) @ self.kernel + self.bias
        return sibling_softmax(logits, self.siblings[class_ids])

    def decide(self, features: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
        """The classes [N] int32 after the second opinion; arguments as of `probabilities`."""
        class_ids = np.asarray(class_ids, np.int32)
        return overrule(self.probabilities(features, class_ids), class_ids, self.margin)

    def refine(
        self,
        detections: np.ndarray,
        masks: np.ndarray,
        features: np.ndarray,
        nms_threshold: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Overrules classes among one image's detections: new detections and masks.

        Scores, boxes and masks stay. Where a garment now has two detections of one class, the
        better stays, as in the network's own suppression.

        Args:
            detections: [D, (y1, x1, y2, x2, class id, score)], best first, zero-padded.
            masks: [at least N, S, S].
            features: [at least N, F].
            nms_threshold: boxes of one class that overlap more are one garment.
        """
        count = int(np.count_nonzero(detections[:, 4]))
        found = detections[:count, 4].astype(np.int32)
        decided = self.decide(features[:count], found)
        changed = decided != found
        if not changed.any():
            return detections, masks
        kept = without_duplicates(detections[:count, :4], decided, changed, nms_threshold)
        new_detections, new_masks = np.zeros_like(detections), np.zeros_like(masks)
        new_detections[: len(kept)] = detections[kept]
        new_detections[: len(kept), 4] = decided[kept]
        new_masks[: len(kept)] = masks[kept]
        return new_detections, new_masks


def sibling_softmax(logits: np.ndarray, siblings: np.ndarray) -> np.ndarray:
    """Softmax over some classes: logits [N, C], siblings [N, C] bool -> [N, C], 0 elsewhere."""
    best = np.max(logits, axis=1, keepdims=True, initial=-np.inf, where=siblings)
    powers = np.exp(np.where(siblings, logits - best, -np.inf))
    return powers / np.maximum(powers.sum(axis=1, keepdims=True), 1e-12)


def overrule(probabilities: np.ndarray, class_ids: np.ndarray, margin: float) -> np.ndarray:
    """[N] int32: the likeliest class of probabilities [N, C] where it beats the detected one
    (class_ids [N]) by more than margin, 0 to 1."""
    best = probabilities.argmax(axis=1)
    rows = np.arange(len(class_ids))
    lead = probabilities[rows, best] - probabilities[rows, class_ids]
    return np.where(lead > margin, best, class_ids).astype(np.int32)


def without_duplicates(
    boxes: np.ndarray, class_ids: np.ndarray, changed: np.ndarray, threshold: float
) -> list[int]:
    """Rows that stay if of two detections of a garment, one of them changed, the better is kept.

    boxes [N, (y1, x1, y2, x2)], best first; class_ids [N]; changed [N] bool; threshold: IoU.
    """
    same = class_ids[:, None] == class_ids[None, :]
    duplicate = same & (compute_overlaps(boxes, boxes) > threshold)
    duplicate &= changed[:, None] | changed[None, :]
    kept: list[int] = []
    for i in range(len(boxes)):
        if not duplicate[i, kept].any():
            kept.append(i)
    return kept


def groups_to_json(siblings: np.ndarray, class_names: Sequence[str]) -> str:
    """Text that `siblings_from_json` reads: the groups of siblings by name."""
    groups = {tuple(np.flatnonzero(row).tolist()) for row in siblings if row.any()}
    return json.dumps([[class_names[i] for i in group] for group in sorted(groups)])


def siblings_from_json(text: str, class_names: Sequence[str]) -> np.ndarray:
    """bool [C, C] of a text of `groups_to_json`.

    Raises:
        ValueError: if it isn't one, or names classes that the model lacks.
    """
    groups = msgspec.json.decode(text, type=list[list[str]])
    unknown = sorted({name for group in groups for name in group} - set(class_names))
    if unknown:
        raise ValueError(
            f"its groups name {', '.join(unknown)}, but the model's classes are "
            f"{', '.join(class_names[1:])}"
        )
    return sibling_table(class_names, groups)
