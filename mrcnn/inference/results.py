"""What was found in an image.

H, W: height and width of the image, pixels. N: garments found. S: side of a raw mask (28).
Boxes are (y1, x1, y2, x2), pixels of the image, y2/x2 exclusive.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from pycocotools import mask as mask_utils

from mrcnn.coco.masks import as_text, from_runs
from mrcnn.core.classes import check_names
from mrcnn.core.image import stretch_mask
from mrcnn.inference.refine import refine_mask

# Masks of an image are kept once made, unless their boxes have more pixels than this.
KEPT_PIXELS = 32_000_000


@dataclass
class Result:
    """The garments of one image, best first.

    Full-size masks are made when asked for, so a result of a huge image stays small.

    Attributes:
        image: [H, W, 3] uint8 RGB, the image.
        boxes: [N, (y1, x1, y2, x2)] int32, within the image.
        class_ids: [N] int32, 1 or more.
        scores: [N] float32, 0..1.
        raw_masks: [N, S, S] float32 in 0..1, each stretched over its box.
        class_names: by class id, background first.
        refined: whether masks are fitted to the image's edges (`refine.refine_mask`).
        exclusive: whether a pixel that several masks claim is left to the best score.

    Raises:
        ValueError: if the arrays don't fit together.
    """

    image: np.ndarray
    boxes: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray
    raw_masks: np.ndarray
    class_names: tuple[str, ...]
    refined: bool = False
    exclusive: bool = False
    _crops: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    _owner: np.ndarray | None = field(default=None, repr=False, compare=False)

    def __post_init__(self):
        self.class_names = check_names(self.class_names, len(self.class_names))
        self.boxes = np.asarray(self.boxes, np.int32).reshape(-1, 4)
        counts = {len(self.boxes), len(self.class_ids), len(self.scores), len(self.raw_masks)}
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        if len(counts) > 1 or (low < 0).any() or (high > self.image.shape[:2]).any():
            raise ValueError(
                f"got {sorted(counts)} boxes, ids, scores and masks for an image of "
                f"{self.image.shape[:2]} pixels; give as many of each, boxes within the image"
            )
        wrong = [int(i) for i in self.class_ids if not 0 < i < len(self.class_names)]
        if wrong:
            raise ValueError(
                f"class id {wrong[0]} has no name: there are {len(self.class_names)}, background "
                "included; give the names of the model's classes"
            )

    def __len__(self):
        return len(self.boxes)

    @property
    def size(self):
        """(height, width) of the image, pixels."""
        return self.image.shape[:2]

    @property
    def names(self):
        """Class names of the garments: list of N."""
        return [self.class_names[i] for i in self.class_ids]

    @property
    def masks(self):
        """All masks at the image's size: [H, W, N] bool, each [:, :, i] contiguous."""
        planes = np.zeros((len(self), *self.size), bool)
        for plane, i in zip(planes, range(len(self)), strict=True):
            plane[self.window(i)] = self.crop(i)
        return planes.transpose(1, 2, 0)

    @property
    def areas(self):
        """Pixels of each mask: [N] int64."""
        return np.array([np.count_nonzero(self.crop(i)) for i in range(len(self))], np.int64)

    def window(self, i):
        """The pair of slices that cuts garment i's box out of the image."""
        y1, x1, y2, x2 = (int(v) for v in self.boxes[i])
        return slice(y1, y2), slice(x1, x2)

    def crop(self, i):
        """The mask of garment i within its box: [y2 - y1, x2 - x1] bool."""
        crop = self._whole_crop(i)
        return crop & (self._owners()[self.window(i)] == i) if self.exclusive else crop

    def _whole_crop(self, i):
        """The mask as if there were no other garment."""
        if i in self._crops:
            return self._crops[i]
        y1, x1, y2, x2 = (int(v) for v in self.boxes[i])
        values = stretch_mask(self.raw_masks[i], y2 - y1, x2 - x1)
        crop = refine_mask(self.image[self.window(i)], values) if self.refined else values >= 0.5
        sides = np.asarray(self.boxes[:, 2:] - self.boxes[:, :2], np.int64)
        if sides.prod(axis=1).sum() <= KEPT_PIXELS:
            self._crops[i] = crop
        return crop

    def _owners(self):
        """Of each pixel the garment with the best score: [H, W] int16, -1 without one."""
        if self._owner is None:
            self._owner = np.full(self.size, -1, np.int16)
            for i in np.argsort(self.scores, kind="stable"):
                self._owner[self.window(i)][self._whole_crop(i)] = i
        return self._owner

    def select(self, rows):
        """A result of these garments only, in the order given; rows: int or bool array."""
        rows = np.arange(len(self))[rows]
        arrays = (self.boxes, self.class_ids, self.scores, self.raw_masks)
        boxes, class_ids, scores, masks = (np.asarray(a)[rows] for a in arrays)
        kept = {n: self._crops[old] for n, old in enumerate(rows.tolist()) if old in self._crops}
        return replace(
            self,
            boxes=boxes,
            class_ids=class_ids,
            scores=scores,
            raw_masks=masks,
            _crops=kept,
            _owner=None,
        )

    def encoded(self, i):
        """The mask of garment i as COCO's compressed run lengths: dict of size and counts (str)."""
        return encode_crop(self.crop(i), self.boxes[i], self.size)

    def to_coco(self, image_id=1):
        """COCO's results form: list of N dicts with image_id, category_id (the class id), bbox
        [x, y, w, h], score and segmentation."""
        return [
            {
                "image_id": int(image_id),
                "category_id": int(self.class_ids[i]),
                "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                "score": float(self.scores[i]),
                "segmentation": self.encoded(i),
            }
            for i, (y1, x1, y2, x2) in enumerate(self.boxes.tolist())
        ]


def encode_crop(crop, box, size):
    """A mask that is known within a box only, as COCO's compressed run lengths.

    Args:
        crop: [h, w] bool.
        box: (y1, x1, y2, x2) of the crop, pixels.
        size: (H, W) of the image.

    Returns:
        dict: "size" [H, W] and "counts" str, as pycocotools makes them of the whole mask; but
        only the box's columns are ever laid out.
    """
    (height, width), (y1, x1, y2, x2) = (int(v) for v in size), (int(v) for v in box)
    columns = np.zeros((x2 - x1, height), bool)
    columns[:, y1:y2] = np.asarray(crop).T
    flat = columns.ravel()
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    runs = np.diff(edges).tolist() if flat.size else [0]
    if flat.size and flat[0]:
        runs.insert(0, 0)
    runs[0] += height * x1
    rest = height * (width - x2)
    if len(runs) % 2:  # the last run is of zeros, as every odd one is
        runs[-1] += rest
    elif rest:
        runs.append(rest)
    return as_text(from_runs(runs, (height, width)))


def without_overlaps(result, threshold=0.5):
    """One class for each garment: of two that share most of their pixels the better is kept.

    Args:
        result: `Result`.
        threshold: IoU of two masks from which on they are the same garment.

    Returns:
        `Result`.
    """
    order = np.argsort(-np.asarray(result.scores), kind="stable")
    codes = [result.encoded(i) for i in order]
    if len(codes) < 2:
        return result
    iou = mask_utils.iou(codes, codes, [0] * len(codes))
    kept: list[int] = []
    for i in range(len(codes)):
        if all(iou[i, j] < threshold for j in kept):
            kept.append(i)
    return result.select(order[kept])


def to_coco_results(image_id, result, category_ids=None):
    """One image's detections in COCO's results form.

    Args:
        image_id: int.
        result: dict of one image, as `MaskRCNN.detect` returns it.
        category_ids: COCO category id for each class id (index 0, the background, is not
            used); None where they are the same.

    Returns:
        list of N dicts: image_id, category_id, bbox [x, y, w, h] floats in pixels, score, and
        segmentation as run-length encoding, its counts a str.
    """
    masks = np.asfortranarray(result["masks"], dtype=np.uint8)
    encoded = mask_utils.encode(masks) if masks.shape[-1] else []
    rows = zip(result["rois"], result["class_ids"], result["scores"], encoded, strict=True)
    return [
        {
            "image_id": int(image_id),
            "category_id": int(class_id if category_ids is None else category_ids[class_id]),
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
            "segmentation": {
                "size": [int(side) for side in rle["size"]],
                "counts": rle["counts"].decode("ascii"),
            },
        }
        for (y1, x1, y2, x2), class_id, score, rle in rows
    ]
