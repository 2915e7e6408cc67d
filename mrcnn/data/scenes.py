"""One training image with its objects, by way of their outlines (`mrcnn.data.outlines`).

The same result as `mrcnn.data.samples.load_image_gt` to within the tolerances that tests state, many
times faster: no mask of the whole image is made, and the image is interpolated once.

Letters in shapes: H, W molded image, M numbers of image meta, N instances.
"""

import dataclasses

import numpy as np

from mrcnn.core.image import compose_image_meta, edge_fades, plan_resize
from mrcnn.data.augmentation import augment_packed, seeded
from mrcnn.data.outlines import (
    as_arrays,
    by_centres,
    check_masks,
    from_masks,
    hide,
    pack,
    place_all,
    unpack,
)
from mrcnn.data.policy import PLAIN, Policy, total_matrix

# Outlines of objects that are pasted or recoloured are blended over about this many pixels.
_BLEND = 1.0


def load_scene(dataset, config, image_id, augmentation=None, *, rng):
    """Loads an image and its ground truth, resized and varied.

    Args:
        dataset: a prepared `Dataset`, with `load_outlines` or with masks of its own.
        config: as for `load_image_gt`, and USE_MINI_MASK.
        image_id: internal id of the image, int.
        augmentation: `Policy`, imgaug augmenter or None.
        rng: numpy Generator; all choices follow from it.

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
    plan = _plan(image, config, rng)
    shape = _molded_shape(plan)
    variation = policy.draw(rng, shape) if policy else PLAIN
    min_visible = policy.min_visible if policy else 0.0
    original_shape, meta_shape = image.shape, (*shape, 3)
    image, instances = _seen(image, outlines, plan, variation)
    if policy is None and augmentation is not None:
        image, packed = augment_packed(seeded(augmentation, rng), image, pack(instances, shape))
        instances = unpack(packed, [item.class_id for item in instances])
    if policy and variation.paste:
        image, instances = _pasted(image, instances, dataset, config, policy, rng)
    if policy and policy.recolour:
        image = _recoloured(image, instances, policy, rng)
    for hole in variation.holes:
        image, instances = _occluded(image, instances, hole, min_visible)
    active = np.zeros(dataset.num_classes, np.int32)
    active[dataset.source_class_ids[dataset.image_info[image_id]["source"]]] = 1
    meta = compose_image_meta(image_id, original_shape, meta_shape, plan.window, plan.scale, active)
    mini_shape = tuple(config.MINI_MASK_SHAPE) if config.USE_MINI_MASK else None
    return image, meta, *as_arrays(instances, shape, mini_shape)


def _is_rgb(image):
    return image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3


def _masks_as_outlines(dataset, image_id, image):
    masks, class_ids = dataset.load_mask(image_id)
    check_masks(masks, class_ids, image.shape, dataset.image_info[image_id]["path"])
    return from_masks(masks), class_ids


def _plan(image, config, rng):
    return plan_resize(
        image.shape,
        min_dim=config.IMAGE_MIN_DIM,
        max_dim=config.IMAGE_MAX_DIM,
        min_scale=config.IMAGE_MIN_SCALE,
        mode=config.IMAGE_RESIZE_MODE,
        rng=rng,
    )


def _molded_shape(plan):
    if plan.crop is not None:
        return plan.crop[2:]
    (top, bottom), (left, right), _ = plan.padding
    return plan.scaled[0] + top + bottom, plan.scaled[1] + left + right


def _seen(image, outlines, plan, variation):
    """The molded image uint8 [H, W, 3] and its `Instance`s."""
    if not _is_rgb(image):
        raise ValueError(
            f"load_image() gave {image.dtype} {image.shape}; policies vary uint8 "
            "[height, width, 3]; pass an imgaug augmenter or none for other images"
        )
    shape = _molded_shape(plan)
    matrix = total_matrix(plan, image.shape, shape, variation)
    shapes, class_ids = outlines
    instances = place_all(shapes, class_ids, matrix, shape)
    return _render(image, plan, matrix, shape, variation), instances


def _render(image, plan, matrix, shape, variation):
    import cv2

    if variation.matrix is None:
        picture = _resized(image, plan, variation.colours)
        picture = cv2.flip(picture, 1) if variation.flip else picture
    else:
        # Four channels warp faster than three, and the fourth says what the image covers.
        opaque = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
        opaque = cv2.warpAffine(opaque, by_centres(matrix), (shape[1], shape[0]))
        picture = cv2.cvtColor(opaque, cv2.COLOR_RGBA2RGB)
        if variation.colours is not None:
            # The surroundings stay black, whatever the colours do.
            picture = cv2.copyTo(
                cv2.transform(picture, variation.colours), cv2.extractChannel(opaque, 3)
            )
    if variation.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), variation.blur)
    return picture


def _resized(image, plan, colours=None):
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


def _fade_edges(scaled, image):
    """In place: enlarging darkens the outermost pixels, as the original's resize does."""
    rows = edge_fades(image.shape[0], scaled.shape[0])
    columns = edge_fades(image.shape[1], scaled.shape[1])
    lowest = image.min() if len(rows[0]) or len(columns[0]) else 0
    for i, fade in zip(*rows, strict=True):
        scaled[i] = np.maximum(scaled[i] * fade, lowest)
    for i, fade in zip(*columns, strict=True):
        scaled[:, i] = np.maximum(scaled[:, i] * fade, lowest)


def _occluded(image, instances, hole, min_visible):
    """Draws a `Hole` and takes it out of the masks, as annotated masks leave out a bag."""
    import cv2

    y1, x1, y2, x2 = hole.box
    pixels = np.ones((y2 - y1, x2 - x1), np.uint8)
    if hole.is_ellipse:
        pixels[:] = 0
        middle, axes = ((x2 - x1) // 2, (y2 - y1) // 2), ((x2 - x1) // 2, (y2 - y1) // 2)
        cv2.ellipse(pixels, middle, axes, 0, 0, 360, 1, -1)
    image[y1:y2, x1:x2][pixels.view(bool)] = hole.colour
    return image, hide(instances, hole.box, pixels, min_visible)


# --- Copy-paste -------------------------------------------------------------------------------


def _pasted(image, instances, dataset, config, policy, rng):
    """Objects of another image, put in front (Ghiasi et al., arXiv:2012.07177)."""
    source = policy.paste_from or dataset
    names = _class_ids_by_name(dataset)
    other_id = int(rng.choice(source.image_ids, p=_shares(policy.paste_weights, source)))
    other, outlines = source.load_image(other_id), source.load_outlines(other_id)
    if outlines is None:
        outlines = _masks_as_outlines(source, other_id, other)
    plan = _plan(other, config, rng)
    if _molded_shape(plan) != image.shape[:2]:
        return image, instances
    moves = dataclasses.replace(
        policy, move=1.0, zoom=0.0, scale=policy.paste_scale, shift=policy.paste_shift
    )
    variation = moves.draw(rng, image.shape)._replace(holes=(), paste=False)  # no chain of images
    other, candidates = _seen(other, outlines, plan, variation)
    objects = [item for item in candidates if item.class_id > 0]
    if not objects:
        return image, instances
    chosen = rng.permutation(len(objects))[: rng.integers(1, len(objects) + 1)]
    pasted = []
    for i in np.sort(chosen):
        class_name = source.class_names[objects[i].class_id]
        if class_name not in names:
            raise ValueError(
                f"paste_from has the class {class_name!r}, which the training data lacks; use "
                "data sets with the same class names"
            )
        pasted.append(objects[i]._replace(class_id=names[class_name]))
    return _blend(image, other, pasted), _behind(instances, pasted, policy.min_visible) + pasted


def _shares(weights, source):
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


def _class_ids_by_name(dataset):
    return {name: i for i, name in enumerate(dataset.class_names)}


def _behind(instances, pasted, min_visible):
    for item in pasted:
        instances = hide(instances, item.box, item.pixels, min_visible)
    return instances


def _blend(image, other, pasted):
    """uint8 [H, W, 3]: `other` where the objects are, with soft outlines."""
    cover = np.zeros(image.shape[:2], np.uint8)
    for _, (y1, x1, y2, x2), pixels in pasted:
        cover[y1:y2, x1:x2] |= pixels
    return _laid_over(image, other, cover)


def _laid_over(image, other, pixels):
    """uint8 [h, w, 3]: `other` where `pixels`, uint8 [h, w] of 0 and 1, are; soft outlines."""
    import cv2

    cover = cv2.GaussianBlur(pixels * np.uint8(255), (0, 0), _BLEND).astype(np.float32) / 255
    return cv2.blendLinear(other, image, cover, 1 - cover)


def _recoloured(image, instances, policy, rng):
    """Some of the objects in other colours."""
    import cv2

    for item in instances:
        if rng.random() < policy.recolour:
            y1, x1, y2, x2 = item.box
            part = image[y1:y2, x1:x2]
            dyed = cv2.transform(part, policy.draw_dye(rng))
            image[y1:y2, x1:x2] = _laid_over(part, dyed, item.pixels)
    return image
