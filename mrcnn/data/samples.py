"""One image as training data: loaded, resized, augmented, with its targets.

Letters in shapes: H, W molded image, M numbers of image meta, N instances. Boxes are
(y1, x1, y2, x2) in pixels of the molded image, y2/x2 exclusive.
"""

import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrcnn.config import Config
from mrcnn.core.boxes import compute_backbone_shapes, config_anchors, extract_bboxes
from mrcnn.core.image import minimize_mask, mold_image, resize_image, resize_mask, resize_options
from mrcnn.data.augmentation import augment_with_masks, seeded
from mrcnn.data.dataset import Dataset
from mrcnn.data.outlines import check_masks
from mrcnn.data.policy import Policy
from mrcnn.data.scenes import image_meta, load_scene
from mrcnn.data.targets import (
    AnchorIndex,
    build_detection_targets,
    build_rpn_targets,
    generate_random_rois,
)

Rng = np.random.Generator


def load_image_gt(
    dataset: Dataset,
    config: Config,
    image_id: int,
    augment: bool = False,
    augmentation: Any = None,
    use_mini_mask: bool = False,
    *,
    rng: Rng | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Loads an image and its ground truth, resized as the configuration says.

    Args:
        config: IMAGE_MIN_DIM, IMAGE_MAX_DIM, IMAGE_MIN_SCALE, IMAGE_RESIZE_MODE and
            MINI_MASK_SHAPE are used.
        augment: deprecated, use `augmentation`; True mirrors every other image.
        augmentation: imgaug augmenter, applied to image and masks alike.
        use_mini_mask: crop the masks to their boxes and resize them to MINI_MASK_SHAPE.
        rng: for the place of IMAGE_RESIZE_MODE "crop"; None takes Python's global `random`.

    Returns:
        image: uint8 [H, W, 3], RGB.
        image_meta: float64 [M], see `mrcnn.core.image.compose_image_meta`.
        class_ids: int32 [N], negative for crowds. Objects without a pixel left are dropped.
        bbox: int32 [N, (y1, x1, y2, x2)].
        mask: bool [H, W, N], or [*MINI_MASK_SHAPE, N].

    Raises:
        ValueError: if masks and image differ in size, or augmentation changes the size.
    """
    image = dataset.load_image(image_id)
    mask, class_ids = dataset.load_mask(image_id)
    original_shape = image.shape
    check_masks(mask, class_ids, image.shape, dataset.image_info[image_id]["path"])
    image, window, scale, padding, crop = resize_image(image, **resize_options(config), rng=rng)
    if mask.shape[-1]:
        mask = resize_mask(mask.astype(bool, copy=False), scale, padding, crop)
    else:
        mask = np.zeros((*image.shape[:2], 0), bool)
    if augment:
        warnings.warn(
            "augment=True is deprecated; pass augmentation=imgaug.augmenters.Fliplr(0.5)",
            DeprecationWarning,
            stacklevel=2,
        )
        if random.randint(0, 1):
            image, mask = np.fliplr(image), np.fliplr(mask)
    if augmentation is not None:
        image, mask = augment_with_masks(augmentation, image, mask)

    bbox = extract_bboxes(mask)
    visible = bbox[:, 2] > bbox[:, 0]
    bbox, class_ids = bbox[visible], np.asarray(class_ids, np.int32)[visible]
    mask = mask[:, :, visible]
    if use_mini_mask:
        mask = minimize_mask(bbox, mask, config.MINI_MASK_SHAPE)
    meta = image_meta(dataset, image_id, original_shape, image.shape, window, scale)
    return image, meta, class_ids, bbox, mask


class ImageLoadError(RuntimeError):
    """An image or its annotations can't be loaded; the message names it."""


class Sampler:
    """Makes the training arrays of one image; batches are stacks of them."""

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        augmentation: Any,
        no_augmentation_sources: Sequence[str] | None,
        augment: bool = False,
        random_rois: int = 0,
        detection_targets: bool = False,
    ) -> None:
        if not getattr(dataset, "num_images", 0):
            raise ValueError("the dataset has no images; add some and call dataset.prepare()")
        if dataset.num_classes != config.NUM_CLASSES:
            raise ValueError(
                f"the dataset has {dataset.num_classes} classes, background included, but "
                f"NUM_CLASSES is {config.NUM_CLASSES}; set it to {dataset.num_classes}"
            )
        if detection_targets and not random_rois:
            raise ValueError("detection_targets needs RoIs; set random_rois, for example to 200")
        self.dataset, self.config = dataset, config
        self.augmentation, self.augment = augmentation, augment
        self.no_augmentation_sources = no_augmentation_sources or ()
        self.random_rois, self.detection_targets = random_rois, detection_targets
        self.anchors = AnchorIndex(
            config_anchors(config, config.IMAGE_SHAPE),
            compute_backbone_shapes(config, config.IMAGE_SHAPE),
            config.RPN_ANCHOR_STRIDE,
        )

    def load(
        self,
        image_id: int,
        rng: Rng | None = None,
        keep_empty: bool = False,
        out: np.ndarray | None = None,
    ) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
        """Arrays of one image in the order of `data_generator`'s, without the batch axis.

        Args:
            rng: None takes NumPy's global state and imgaug's.
            keep_empty: give arrays of an image without objects too.
            out: float32 [H, W, 3] that the molded image is written to, or None for a new one.

        Returns:
            (inputs, outputs); or None for an empty image.

        Raises:
            ImageLoadError: from whatever went wrong, with the image's path.
        """
        try:
            return self._load(image_id, rng, keep_empty, out)
        except Exception as error:
            path = self.dataset.image_info[image_id]["path"]
            raise ImageLoadError(f"cannot load image {image_id} ({path}): {error}") from error

    def _load(
        self, image_id: int, rng: Rng | None, keep_empty: bool, out: np.ndarray | None
    ) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
        config = self.config
        image, meta, class_ids, boxes, masks = self._load_gt(image_id, rng)
        if not (keep_empty or np.any(class_ids > 0)):
            return None
        if image.shape != tuple(config.IMAGE_SHAPE):
            raise ValueError(
                f"it is molded to {image.shape} but IMAGE_SHAPE is {tuple(config.IMAGE_SHAPE)}; "
                "train with IMAGE_RESIZE_MODE 'square' or 'crop'"
            )
        match, deltas = build_rpn_targets(
            image.shape, self.anchors, class_ids, boxes, config, rng=rng
        )
        rois, outputs = [], []
        if self.random_rois:
            rois = [generate_random_rois(image.shape, self.random_rois, class_ids, boxes, rng=rng)]
        if self.detection_targets:
            chosen, roi_class_ids, *rest = build_detection_targets(
                rois[0], class_ids, boxes, masks, config, rng=rng
            )
            rois.append(chosen)
            outputs = [roi_class_ids[:, np.newaxis], *rest]
        molded = _mold(image, config, out)
        gt = _pad_instances(class_ids, boxes, masks, config.MAX_GT_INSTANCES, rng)
        return [molded, meta, match[:, np.newaxis], deltas, *gt, *rois], outputs

    def _load_gt(self, image_id: int, rng: Rng | None) -> tuple[np.ndarray, ...]:
        """As `load_image_gt`, by the quicker way of outlines where that is possible."""
        source = self.dataset.image_info[image_id]["source"]
        augmentation = None if source in self.no_augmentation_sources else self.augmentation
        if rng is None and isinstance(augmentation, Policy):
            rng = np.random.default_rng(np.random.randint(2**31))
        if rng is not None:
            scene = load_scene(self.dataset, self.config, image_id, augmentation, rng=rng)
            if scene is not None:
                return scene
            if augmentation is not None:
                augmentation = seeded(augmentation, rng)  # a copy, as other threads use this one
        return load_image_gt(
            self.dataset,
            self.config,
            image_id,
            augment=self.augment,
            augmentation=augmentation,
            use_mini_mask=self.config.USE_MINI_MASK,
            rng=rng,
        )


def _mold(image: np.ndarray, config: Config, out: np.ndarray | None) -> np.ndarray:
    """As `mold_image`, in float32 throughout: off by its rounding."""
    if out is None:
        return mold_image(image, config).astype(np.float32)
    # One long row of means: NumPy is slow on rows of three.
    mean = np.broadcast_to(np.asarray(config.MEAN_PIXEL, np.float32), image.shape[1:]).ravel()
    np.subtract(image.reshape(len(image), -1), mean, out=out.reshape(len(image), -1))
    return out


def _pad_instances(
    class_ids: np.ndarray, boxes: np.ndarray, masks: np.ndarray, count: int, rng: Rng | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ground truth of N instances -> of `count`: zeros added, or randomly chosen ones kept.

    Returns:
        int32 [count], int32 [count, 4], bool [h, w, count].
    """
    if len(class_ids) > count:
        choice = np.random.choice if rng is None else rng.choice
        kept = choice(len(class_ids), count, replace=False)
        class_ids, boxes, masks = class_ids[kept], boxes[kept], masks[:, :, kept]
    missing = (0, count - len(class_ids))
    return (
        np.pad(class_ids, missing),
        np.pad(boxes, (missing, (0, 0))),
        np.pad(masks, ((0, 0), (0, 0), missing)),
    )
