"""One training image with its objects, by way of their outlines (`mrcnn.data.outlines`).

The same result as `mrcnn.data.samples.load_image_gt` to within the tolerances that tests state,
many times faster: no mask of the whole image is made, and the image is interpolated once.

Letters in shapes: H, W molded image, M numbers of image meta, N instances.
"""

import dataclasses
from typing import Any

import numpy as np

from mrcnn.config import Config
from mrcnn.core.boxes import Shape
from mrcnn.core.image import (
    ResizePlan,
    Window,
    compose_image_meta,
    edge_fades,
    plan_resize,
    resize_options,
)
from mrcnn.data.augmentation import augment_packed, seeded
from mrcnn.data.dataset import Dataset
from mrcnn.data.outlines import (
    Instance,
    as_arrays,
    by_centres,
    check_masks,
    from_masks,
    hide,
    pack,
    place_all,
    unpack,
)
from mrcnn.data.policy import PLAIN, Hole, Policy, Variation, total_matrix

# Outlines of objects that are pasted or recoloured are blended over about this many pixels.
_BLEND = 1.0

Rng = np.random.Generator
Outlines = tuple[list[Any], Any]  # shapes of `mrcnn.data.outlines` or None, and class ids


def load_scene(
    dataset: Dataset, config: Config, image_id: int, augmentation: Any = None, *, rng: Rng
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Loads an image and its ground truth, resized and varied.

    Args:
        dataset: prepared, with `load_outlines` or with masks of its own.
        config: as for `load_image_gt`, and USE_MINI_MASK.
        augmentation: `Policy`, imgaug augmenter or None.
        rng: all choices follow from it.

    Returns:
        As `load_image_gt`: image uint8 [H, W, 3], image_meta float64 [M], class_ids int32 [N],
        boxes int32 [N, (y1, x1, y2, x2)], masks bool [*MINI_MASK_SHAPE, N], or [H, W, N] without
        USE_MINI_MASK. Objects without a pixel left are dropped.
        None where `load_image_gt` has to do: without a policy, if the data set only has masks
        or the image isn't uint8 RGB.

    Raises:
        ValueError: if a policy meets an image that isn't uint8 RGB, or masks and image differ
            in size.
    """
    policy = augmentation if isinstance(augmentation, Policy) else None
    outlines = dataset.load_outlines(image_id)
    if outlines is None and policy is None:
        return None
    image = dataset.load_image(image_id)
    if not _is_rgb(image) and policy is None:
        return None
    if outlines is None:
        outlines = _masks_as_outlines(dataset, image_id, image)
    plan = plan_resize(image.shape, **resize_options(config), rng=rng)
    shape = plan.molded_shape
    variation = policy.draw(rng, shape) if policy else PLAIN
    min_visible = policy.min_visible if policy else 0.0
    meta = image_meta(dataset, image_id, image.shape, (*shape, 3), plan.window, plan.scale)
    image, instances = _vary(image, outlines, plan, variation)
    if policy is None and augmentation is not None:
        image, packed = augment_packed(seeded(augmentation, rng), image, pack(instances, shape))
        instances = unpack(packed, [item.class_id for item in instances])
    if policy and variation.paste:
        image, instances = _paste_objects(image, instances, dataset, config, policy, rng)
    if policy and policy.recolour:
        _recolour_objects(image, instances, policy, rng)
    for hole in variation.holes:
        instances = _occlude(image, instances, hole, min_visible)
    mini_shape = tuple(config.MINI_MASK_SHAPE) if config.USE_MINI_MASK else None
    class_ids, boxes, masks = as_arrays(instances, shape, mini_shape)
    return image, meta, class_ids, boxes, masks


def image_meta(
    dataset: Dataset,
    image_id: int,
    original_shape: Shape,
    shape: Shape,
    window: Window,
    scale: float,
) -> np.ndarray:
    """`compose_image_meta` with the classes that the image's source annotates."""
    active = np.zeros(dataset.num_classes, np.int32)
    active[dataset.source_class_ids[dataset.image_info[image_id]["source"]]] = 1
    return compose_image_meta(image_id, original_shape, shape, window, scale, active)


def _is_rgb(image: np.ndarray) -> bool:
    return image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def _masks_as_outlines(dataset: Dataset, image_id: int, image: np.ndarray) -> Outlines:
    masks, class_ids = dataset.load_mask(image_id)
    check_masks(masks, class_ids, image.shape, dataset.image_info[image_id]["path"])
    return from_masks(masks), class_ids


def _vary(
    image: np.ndarray, outlines: Outlines, plan: ResizePlan, variation: Variation
) -> tuple[np.ndarray, list[Instance]]:
    """The molded image uint8 [H, W, 3] and its objects."""
    if not _is_rgb(image):
        raise ValueError(
            f"load_image() gave {image.dtype} {image.shape}; policies vary uint8 "
            "[height, width, 3]; pass an imgaug augmenter or none for other images"
        )
    matrix = total_matrix(plan, image.shape, plan.molded_shape, variation)
    shapes, class_ids = outlines
    instances = place_all(shapes, class_ids, matrix, plan.molded_shape)
    return _render(image, plan, matrix, variation), instances


def _render(
    image: np.ndarray, plan: ResizePlan, matrix: np.ndarray, variation: Variation
) -> np.ndarray:
    import cv2

    if variation.matrix is None:
        molded = _resize(image, plan, variation.colours)
        molded = cv2.flip(molded, 1) if variation.flip else molded
    else:
        # Four channels warp faster than three, and the fourth says what the image covers.
        opaque = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
        opaque = cv2.warpAffine(opaque, by_centres(matrix), plan.molded_shape[::-1])
        molded = cv2.cvtColor(opaque, cv2.COLOR_RGBA2RGB)
        if variation.colours is not None:
            # The surroundings stay black, whatever the colours do.
            coloured = cv2.transform(molded, variation.colours)
            molded = cv2.copyTo(coloured, cv2.extractChannel(opaque, 3))
    if variation.blur:
        molded = cv2.GaussianBlur(molded, (0, 0), variation.blur)
    return molded


def _resize(image: np.ndarray, plan: ResizePlan, colours: np.ndarray | None = None) -> np.ndarray:
    """As `resize_image`, to within two grey levels; colours change before black is padded."""
    import cv2

    height, width = plan.scaled
    scaled = image
    if image.shape[:2] != plan.scaled:
        scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        _fade_edges(scaled, image)
    if colours is not None:
        scaled = cv2.transform(scaled, colours)
    if plan.crop is not None:
        y, x, rows, columns = plan.crop
        return np.ascontiguousarray(scaled[y : y + rows, x : x + columns])
    (top, bottom), (left, right), _ = plan.padding
    return cv2.copyMakeBorder(scaled, top, bottom, left, right, cv2.BORDER_CONSTANT)


def _fade_edges(scaled: np.ndarray, image: np.ndarray) -> None:
    """In place: enlarging darkens the outermost pixels, as the original's resize does."""
    rows = edge_fades(image.shape[0], scaled.shape[0])
    columns = edge_fades(image.shape[1], scaled.shape[1])
    lowest = image.min() if len(rows[0]) or len(columns[0]) else 0
    for i, fade in zip(*rows, strict=True):
        scaled[i] = np.maximum(scaled[i] * fade, lowest)
    for i, fade in zip(*columns, strict=True):
        scaled[:, i] = np.maximum(scaled[:, i] * fade, lowest)


def _occlude(
    image: np.ndarray, instances: list[Instance], hole: Hole, min_visible: float
) -> list[Instance]:
    """Draws a hole in place and takes it out of the masks, as annotated masks leave out a bag."""
    import cv2

    y1, x1, y2, x2 = hole.box
    pixels = np.ones((y2 - y1, x2 - x1), np.uint8)
    if hole.is_ellipse:
        pixels[:] = 0
        middle, axes = ((x2 - x1) // 2, (y2 - y1) // 2), ((x2 - x1) // 2, (y2 - y1) // 2)
        cv2.ellipse(pixels, middle, axes, 0, 0, 360, 1, -1)
    image[y1:y2, x1:x2][pixels.view(bool)] = hole.colour
    return hide(instances, hole.box, pixels, min_visible)


# --- Copy-paste -------------------------------------------------------------------------------


def _paste_objects(
    image: np.ndarray,
    instances: list[Instance],
    dataset: Dataset,
    config: Config,
    policy: Policy,
    rng: Rng,
) -> tuple[np.ndarray, list[Instance]]:
    """Puts objects of another image in front (Ghiasi et al., arXiv:2012.07177)."""
    source = policy.paste_from or dataset
    other_id = int(rng.choice(source.image_ids, p=_shares(policy.paste_weights, source)))
    other, outlines = source.load_image(other_id), source.load_outlines(other_id)
    if outlines is None:
        outlines = _masks_as_outlines(source, other_id, other)
    plan = plan_resize(other.shape, **resize_options(config), rng=rng)
    if plan.molded_shape != image.shape[:2]:
        return image, instances
    moves = dataclasses.replace(
        policy, move=1.0, zoom=0.0, scale=policy.paste_scale, shift=policy.paste_shift
    )
    variation = moves.draw(rng, image.shape)._replace(holes=(), paste=False)  # no chain of images
    other, candidates = _vary(other, outlines, plan, variation)
    objects = [item for item in candidates if item.class_id > 0]
    if not objects:
        return image, instances
    chosen = rng.permutation(len(objects))[: rng.integers(1, len(objects) + 1)]
    pasted = [_renumbered(objects[i], source, dataset) for i in np.sort(chosen)]
    cover = np.zeros(image.shape[:2], np.uint8)
    for item in pasted:
        y1, x1, y2, x2 = item.box
        cover[y1:y2, x1:x2] |= item.pixels
        instances = hide(instances, item.box, item.pixels, policy.min_visible)
    return _blend(image, other, cover), instances + pasted


def _renumbered(instance: Instance, source: Dataset, dataset: Dataset) -> Instance:
    """An object of one data set with the class id of another, by the class's name."""
    class_name = source.class_names[instance.class_id]
    if class_name not in dataset.class_names:
        raise ValueError(
            f"paste_from has the class {class_name!r}, which the training data lacks; use "
            "data sets with the same class names"
        )
    return instance._replace(class_id=dataset.class_names.index(class_name))


def _shares(weights: Any, source: Dataset) -> np.ndarray | None:
    """The weights as shares of 1; None as it is."""
    if weights is None:
        return None
    weights = np.asarray(weights, np.float64)
    if weights.shape != (source.num_images,) or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(
            f"paste_weights are of shape {weights.shape} for {source.num_images} images, or not "
            "all > 0; pass one number for each image that is pasted from"
        )
    return weights / weights.sum()


def _blend(image: np.ndarray, other: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3]: `other` where `pixels`, uint8 [h, w] of 0 and 1, are; soft outlines."""
    import cv2

    cover = cv2.GaussianBlur(pixels * np.uint8(255), (0, 0), _BLEND).astype(np.float32) / 255
    return cv2.blendLinear(other, image, cover, 1 - cover)


def _recolour_objects(
    image: np.ndarray, instances: list[Instance], policy: Policy, rng: Rng
) -> None:
    """Gives some of the objects other colours, in place."""
    import cv2

    for item in instances:
        if rng.random() < policy.recolour:
            y1, x1, y2, x2 = item.box
            part = image[y1:y2, x1:x2]
            dyed = cv2.transform(part, policy.draw_dye(rng))
            image[y1:y2, x1:x2] = _blend(part, dyed, item.pixels)
