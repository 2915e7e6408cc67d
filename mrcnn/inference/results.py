"""The garments of one image.

H, W: height and width of the image, pixels. N: number of garments. S: side of a raw mask (28).
Boxes are (y1, x1, y2, x2), pixels of the image, y2/x2 exclusive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np
from pycocotools import mask as mask_utils

from mrcnn.coco.masks import TextRLE, area, as_text, bounds, decode, from_runs, to_rle
from mrcnn.core.classes import check_names
from mrcnn.core.image import stretch_mask
from mrcnn.inference.refine import refine_mask

# The masks of an image are kept in memory, unless their boxes have more pixels than this.
KEPT_PIXELS = 32_000_000


class CocoResult(TypedDict):
    """A row of COCO's results format; bbox is [x, y, width, height], pixels."""

    image_id: int | str
    category_id: int
    bbox: list[float]
    score: float
    segmentation: TextRLE


@dataclass
class Result:
    """The garments of one image, best first.

    Full-size masks are made on request, so a result of a huge image stays small.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        boxes: [N, (y1, x1, y2, x2)] int32, within the image.
        class_ids: [N] int32, 1 or more.
        scores: [N] float32, 0..1.
        raw_masks: [N, S, S] float32 in 0..1, each stretched over its box; None where the masks
            are known at full size (`from_detect`, `from_coco`).
        class_names: by class id, background first.
        refined: whether masks are fitted to the image's edges (`refine.refine_mask`).
        exclusive: whether a pixel that several masks claim goes to the best score alone.

    Raises:
        ValueError: if the arrays don't fit together.
    """

    image: np.ndarray
    boxes: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray
    raw_masks: np.ndarray | None
    class_names: Sequence[str]
    refined: bool = False
    exclusive: bool = False
    # By row, of the masks as they are without `exclusive`; `select` takes them along.
    _crops: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    _rles: dict[int, TextRLE] = field(default_factory=dict, repr=False, compare=False)
    _owners: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.class_names = check_names(self.class_names, len(self.class_names))
        self.boxes = np.asarray(self.boxes, np.int32).reshape(-1, 4)
        masks = self._crops if self.raw_masks is None else self.raw_masks
        counts = {len(a) for a in (self.boxes, self.class_ids, self.scores, masks)}
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        if len(counts) > 1 or (low < 0).any() or (high > self.size).any():
            raise ValueError(
                f"got {sorted(counts)} boxes, ids, scores and masks for an image of "
                f"{self.size} pixels; give as many of each, boxes within the image"
            )
        wrong = [int(i) for i in self.class_ids if not 0 < i < len(self.class_names)]
        if wrong:
            raise ValueError(
                f"class id {wrong[0]} has no name: there are {len(self.class_names)}, background "
                "included; give the names of the model's classes"
            )

    @classmethod
    def from_detect(
        cls, detected: Mapping[str, np.ndarray], image: np.ndarray, class_names: Sequence[str]
    ) -> "Result":
        """The result of one image as a dict of `MaskRCNN.detect`."""
        boxes, masks = np.asarray(detected["rois"], np.int32).reshape(-1, 4), detected["masks"]
        crops = {
            i: np.asarray(masks[y1:y2, x1:x2, i], bool)
            for i, (y1, x1, y2, x2) in enumerate(boxes.tolist())
        }
        ids, scores = detected["class_ids"], detected["scores"]
        return cls(image, boxes, ids, scores, None, class_names, _crops=crops)

    @classmethod
    def from_coco(
        cls, rows: Sequence[Mapping[str, Any]], image: np.ndarray, class_names: Sequence[str]
    ) -> "Result":
        """The rows of COCO results of one image, category_id being the class id.

        Boxes grow to whole pixels, and where a mask reaches beyond its box.
        """
        rows = sorted(rows, key=lambda row: -row["score"])
        boxes, crops = [], {}
        for i, row in enumerate(rows):
            rle = to_rle(row["segmentation"], image.shape[:2])
            boxes.append(_whole_box(row["bbox"], rle, image.shape[:2]))
            y1, x1, y2, x2 = boxes[i]
            crops[i] = decode(rle)[y1:y2, x1:x2].astype(bool)
        ids = np.array([row["category_id"] for row in rows], np.int32)
        scores = np.array([row["score"] for row in rows], np.float32)
        return cls(image, np.array(boxes), ids, scores, None, class_names, _crops=crops)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image, pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def names(self) -> list[str]:
        """Class names of the garments."""
        return [self.class_names[i] for i in self.class_ids]

    @property
    def masks(self) -> np.ndarray:
        """All masks at the image's size: [H, W, N] bool, each [:, :, i] contiguous."""
        planes = np.zeros((len(self), *self.size), bool)
        for i, plane in enumerate(planes):
            plane[self.window(i)] = self.crop(i)
        return planes.transpose(1, 2, 0)

    @property
    def areas(self) -> np.ndarray:
        """Pixels of each mask: [N] int64."""
        return np.array([np.count_nonzero(self.crop(i)) for i in range(len(self))], np.int64)

    @property
    def have_pixels(self) -> np.ndarray:
        """Whether each mask has a pixel: [N] bool."""
        if self.raw_masks is None or not self.refined or self.exclusive:
            return np.array([self.crop(i).any() for i in range(len(self))], bool)
        # Fitting a mask takes long, and never all of its pixels.
        return np.array([(self._values(i) >= 0.5).any() for i in range(len(self))], bool)

    def window(self, i: int) -> tuple[slice, slice]:
        """The slices that cut garment i's box out of the image."""
        y1, x1, y2, x2 = self.boxes[i].tolist()
        return slice(y1, y2), slice(x1, x2)

    def crop(self, i: int) -> np.ndarray:
        """The mask of garment i within its box: [y2 - y1, x2 - x1] bool."""
        crop = self._whole_crop(i)
        if self.exclusive:
            crop = np.logical_and(crop, self._best_owners()[self.window(i)] == i)
        return crop

    def _whole_crop(self, i: int) -> np.ndarray:
        """The mask as if there were no other garment."""
        if self.raw_masks is None or i in self._crops:
            return self._crops[i]
        values = self._values(i)
        crop = refine_mask(self.image[self.window(i)], values) if self.refined else values >= 0.5
        sides = np.asarray(self.boxes[:, 2:] - self.boxes[:, :2], np.int64)
        if sides.prod(axis=1).sum() <= KEPT_PIXELS:
            self._crops[i] = crop
        return crop

    def _values(self, i: int) -> np.ndarray:
        """The raw mask of garment i at the size of its box: [y2 - y1, x2 - x1] float32."""
        assert self.raw_masks is not None
        y1, x1, y2, x2 = self.boxes[i].tolist()
        return stretch_mask(self.raw_masks[i], y2 - y1, x2 - x1)

    def _best_owners(self) -> np.ndarray:
        """For each pixel the garment with the best score: [H, W] int16, -1 without one."""
        if self._owners is None:
            self._owners = np.full(self.size, -1, np.int16)
            for i in np.argsort(self.scores, kind="stable").tolist():
                self._owners[self.window(i)][self._whole_crop(i)] = i
        return self._owners

    def select(self, rows: Any) -> "Result":
        """A result of these garments only, in the order given; rows: int or bool array, slice."""
        rows = np.arange(len(self))[rows]
        boxes, ids, scores = (
            np.asarray(a)[rows] for a in (self.boxes, self.class_ids, self.scores)
        )
        places = list(enumerate(rows.tolist()))
        return replace(
            self,
            boxes=boxes,
            class_ids=ids,
            scores=scores,
            raw_masks=None if self.raw_masks is None else np.asarray(self.raw_masks)[rows],
            _crops={new: self._crops[old] for new, old in places if old in self._crops},
            _rles={new: self._rles[old] for new, old in places if old in self._rles},
            _owners=None,
        )

    def encoded(self, i: int) -> TextRLE:
        """The mask of garment i as COCO's compressed run lengths."""
        if self.exclusive:
            return encode_crop(self.crop(i), self.boxes[i], self.size)
        if i not in self._rles:
            self._rles[i] = encode_crop(self.crop(i), self.boxes[i], self.size)
        return self._rles[i]

    def to_coco(
        self, image_id: int | str = 1, category_ids: Sequence[int | None] | None = None
    ) -> list[CocoResult]:
        """The garments in COCO's results format.

        Args:
            category_ids: COCO's category id by class id; None: they are the same.
        """
        numbers = range(len(self.class_names)) if category_ids is None else category_ids
        return [
            {
                "image_id": image_id if isinstance(image_id, str) else int(image_id),
                "category_id": numbers[class_id],
                "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                "score": float(self.scores[i]),
                "segmentation": self.encoded(i),
            }
            for i, (class_id, (y1, x1, y2, x2)) in enumerate(
                zip(np.asarray(self.class_ids).tolist(), self.boxes.tolist(), strict=True)
            )
        ]


def _whole_box(bbox: Sequence[float], rle: Any, size: tuple[int, ...]) -> list[int]:
    """(y1, x1, y2, x2) of whole pixels around a box [x, y, width, height] and a mask."""
    frames = [bbox, bounds(rle)] if area(rle) else [bbox]
    x, y, width, height = np.array(frames, float).T
    low = np.floor([y.min(), x.min()]).clip(0, size)
    high = np.ceil([(y + height).max(), (x + width).max()]).clip(low, size)
    return [int(v) for v in (*low, *high)]


def encode_crop(
    crop: np.ndarray, box: Sequence[int] | np.ndarray, size: tuple[int, int]
) -> TextRLE:
    """A mask that is known within its box only, as COCO's compressed run lengths.

    The same as pycocotools' encoding of the full mask, but only the box's columns are laid out.

    Args:
        crop: [h, w] bool.
        box: (y1, x1, y2, x2) of the crop, pixels.
        size: (H, W) of the image.
    """
    (height, width), (y1, x1, y2, x2) = size, (int(v) for v in box)
    # The columns one after the other, between a 0 before them and a 0 behind.
    flat = np.zeros((x2 - x1) * height + 2, bool)
    flat[1:-1].reshape(x2 - x1, height)[:, y1:y2] = np.asarray(crop).T
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + height * x1
    runs = np.diff([0, *edges, height * width]).tolist()
    if len(runs) > 1 and not runs[-1]:
        runs.pop()
    return as_text(from_runs(runs, (height, width)))


def without_overlaps(result: Result, threshold: float = 0.5) -> Result:
    """Class-agnostic NMS: of garments that share most of their pixels only the best is kept.

    Args:
        threshold: mask IoU from which on two detections are the same garment.
    """
    order = np.argsort(-np.asarray(result.scores), kind="stable")
    rles = [result.encoded(i) for i in order.tolist()]
    if len(rles) < 2:
        return result
    iou = mask_utils.iou(rles, rles, [0] * len(rles))
    kept: list[int] = []
    for i in range(len(rles)):
        if all(iou[i, j] < threshold for j in kept):
            kept.append(i)
    return result.select(order[kept])
