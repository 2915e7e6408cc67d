"""Images and masks in NumPy: resizing, molding, pasting, and the image meta.

Letters used below: H, W rows and columns of an image, C channels, N instances. A box is
(y1, x1, y2, x2) in pixels, y2/x2 exclusive. The molded image is the resized, padded network
input; its window is the box that holds the image itself, without the padding.
"""

import math
import numbers
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mrcnn.core.boxes import Shape
from mrcnn.core.reading import ImageError as ImageError  # from here too
from mrcnn.core.reading import read_image as read_image

# Temporaries of the resizing loop hold about this many numbers, so that they stay in cache.
_BLOCK = 1 << 16

Window = tuple[int, int, int, int]  # (y1, x1, y2, x2), or (y, x, height, width) of a crop
Padding = list[tuple[int, int]]  # (before, after) of each axis


def resize(
    image: ArrayLike,
    output_shape: Shape,
    order: int = 1,
    mode: str = "constant",
    cval: float = 0,
    clip: bool = True,
    preserve_range: bool = False,
    anti_aliasing: bool = False,
    anti_aliasing_sigma: float | None = None,
) -> np.ndarray:
    """`skimage.transform.resize` with the original's defaults; with these, about 10 times faster.

    Args:
        image: [H, W] or [H, W, C] of any dtype. bool is taken as 0.0 and 1.0.
        output_shape: (height, width) in pixels.
        order: 0 nearest, 1 bilinear, up to 5; this and the others are scikit-image's. By
            default pixels at the border are interpolated towards 0, but not below the
            smallest value of the image.
        preserve_range: False scales integers to 0..1.

    Returns:
        [height, width] or [height, width, C]; float32 of a float32 image, else float64
        (order 0 keeps the dtype).
    """
    image = np.asarray(image)
    is_plain = image.dtype in (bool, np.uint8, np.float32, np.float64)
    is_simple = (order, mode, cval, clip, anti_aliasing) == (1, "constant", 0, True, False)
    if is_plain and is_simple and image.ndim in (2, 3) and len(output_shape) == 2 and image.size:
        resized = _bilinear(image, output_shape[0], output_shape[1])
        return resized / 255 if image.dtype == np.uint8 and not preserve_range else resized
    from skimage import transform  # slow to import, seldom needed

    if image.dtype == bool and order:
        image = image.astype(np.float64)
    smoothing = anti_aliasing, anti_aliasing_sigma
    scaled: Any = transform.resize  # untyped
    return np.asarray(
        scaled(image, output_shape, order, mode, cval, clip, preserve_range, *smoothing)
    )


def _bilinear(
    image: np.ndarray,
    height: int,
    width: int,
    rows: slice = slice(None),
    columns: slice = slice(None),
    fade: bool = True,
) -> np.ndarray:
    """[H, W, ...] -> the given rows and columns of [height, width, ...], in the image's range.

    fade: interpolate towards 0 beyond the outer pixels' middles, or else repeat these.
    In and of float32 if the image is, else float64. No matrix products: BLAS spreads them over
    threads, which was 60 times slower where other work kept the cores busy.
    """
    dtype = np.dtype(np.float32 if image.dtype == np.float32 else np.float64)
    lowest, highest = np.fmin.reduce(image, axis=None), np.fmax.reduce(image, axis=None)
    (left, right), shares = _neighbours(image.shape[1], width, columns, dtype, fade)
    channels = image[0, 0].size
    interleaved, shares = np.arange(channels), np.repeat(shares, channels, axis=1)
    flat = image.reshape(len(image), -1)
    wide = flat.take((left[:, None] * channels + interleaved).ravel(), axis=1) * shares[0]
    wide += flat.take((right[:, None] * channels + interleaved).ravel(), axis=1) * shares[1]

    (upper, lower), shares = _neighbours(image.shape[0], height, rows, dtype, fade)
    resized = np.empty((len(upper), wide.shape[1]), dtype)
    step = max(1, _BLOCK // max(1, wide.shape[1]))
    for start in range(0, len(upper), step):
        part = slice(start, start + step)
        block = np.multiply(wide[upper[part]], shares[0, part, None], out=resized[part])
        block += wide[lower[part]] * shares[1, part, None]
        np.clip(block, lowest, highest, out=block)
    return resized.reshape(len(upper), len(left), *image.shape[2:])


def _neighbours(
    old: int, new: int, part: slice, dtype: np.dtype, fade: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The two source pixels [2, new] of each pixel, and their shares [2, new], 0 outside."""
    position = (np.arange(new)[part] + 0.5) * (old / max(1, new)) - 0.5
    if not fade:
        position = position.clip(0, old - 1)
    first = np.floor(position).astype(np.intp)
    pixels = np.stack([first, first + 1])
    shares = np.stack([first + 1 - position, position - first])
    shares *= (pixels >= 0) & (pixels < old)
    return pixels.clip(0, old - 1), shares.astype(dtype)


def edge_fades(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices, factors) of the pixels that `resize` from `old` to `new` pixels interpolates
    towards 0 beyond the border."""
    _, shares = _neighbours(old, new, slice(None), np.dtype(np.float64), True)
    kept = shares.sum(axis=0)
    indices = np.flatnonzero(kept < 1 - 1e-9)
    return indices, kept[indices]


def resize_image(
    image: ArrayLike,
    min_dim: int | None = None,
    max_dim: int | Sequence[int] | None = None,
    min_scale: float | None = None,
    mode: str = "square",
    *,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, Window, float, Padding, Window | None]:
    """Scales an image, keeping its proportions, and pads or crops it to the network's size.

    Args:
        image: [H, W, C] of any dtype.
        min_dim: scale up so that the shorter side has this many pixels; in mode "crop" also
            the side of the crop. Images are not scaled down to it.
        max_dim: in mode "square" the side of the result, or its height and width; the other
            modes have no use for it.
        min_scale: scale up at least by this factor, whatever min_dim says.
        mode: "square": at most max_dim, zero-padded to max_dim x max_dim, centered;
            "pad64": zero-padded to multiples of 64, centered; "crop": a random
            min_dim x min_dim crop, placed by Python's global `random` (y first, then x);
            "none": as it is, without scaling.
        rng: places the crop instead.

    Returns:
        image: [height, width, C] of the dtype given, truncated where that is an integer.
        window: (y1, x1, y2, x2) pixels of the result that hold the image.
        scale: pixels of the result for one of the input.
        padding: [(top, bottom), (left, right), (0, 0)] pixels.
        crop: (y, x, height, width) in the scaled image, None but in mode "crop".

    Raises:
        ValueError: if the mode is unknown or lacks its size, or image isn't [H, W, C].
    """
    image = np.asarray(image)
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}; pass [height, width, channels]")
    plan = plan_resize(image.shape, min_dim, max_dim, min_scale, mode, rng)
    if image.shape[:2] != plan.scaled:
        scaled = resize(image, plan.scaled, preserve_range=True)
        # Truncated, not rounded: weights were trained on images made so.
        image = scaled.astype(image.dtype)
    if plan.crop is not None:
        y, x, height, width = plan.crop
        image = image[y : y + height, x : x + width]
    elif mode != "none":
        image = np.pad(image, plan.padding)
    return image, plan.window, plan.scale, plan.padding, plan.crop


class ResizePlan(NamedTuple):
    """What `resize_image` does to an image; window, scale, padding and crop are its results."""

    scaled: tuple[int, int]  # (height, width) after scaling, before padding or cropping
    window: Window
    scale: float
    padding: Padding
    crop: Window | None

    @property
    def molded_shape(self) -> tuple[int, int]:
        """(height, width) of the result."""
        (top, bottom), (left, right), _ = self.padding
        height, width = self.scaled if self.crop is None else self.crop[2:]
        return height + top + bottom, width + left + right


def plan_resize(
    shape: Shape,
    min_dim: int | None = None,
    max_dim: int | Sequence[int] | None = None,
    min_scale: float | None = None,
    mode: str = "square",
    rng: np.random.Generator | None = None,
) -> ResizePlan:
    """Where `resize_image`, whose other arguments these are, puts an image of a shape (H, W, ...).

    Raises:
        ValueError: if the mode is unknown or lacks its size.
    """
    height, width = (int(side) for side in shape[:2])
    no_padding = [(0, 0), (0, 0), (0, 0)]
    if mode == "none":
        return ResizePlan((height, width), (0, 0, height, width), 1, no_padding, None)
    _check_dims(mode, min_dim, max_dim)
    frame = _sides(max_dim) if mode == "square" else None
    scale = _scale_for(height, width, min_dim, frame, min_scale)
    if scale != 1:
        height, width = scaled_shape((height, width), scale)
    if mode == "crop":
        assert min_dim
        room = height - min_dim, width - min_dim
        if rng is None:
            y, x = random.randint(0, room[0]), random.randint(0, room[1])
        else:
            y, x = int(rng.integers(0, room[0] + 1)), int(rng.integers(0, room[1] + 1))
        window = (0, 0, min_dim, min_dim)
        return ResizePlan((height, width), window, scale, no_padding, (y, x, min_dim, min_dim))
    rows = frame[0] - height if frame else -height % 64
    columns = frame[1] - width if frame else -width % 64
    top, left = rows // 2, columns // 2
    padding = [(top, rows - top), (left, columns - left), (0, 0)]
    window = (top, left, top + height, left + width)
    return ResizePlan((height, width), window, scale, padding, None)


def _sides(max_dim: int | Sequence[int] | None) -> tuple[int, int]:
    """(height, width) of the result of mode "square"."""
    height, width = np.broadcast_to(max_dim or 0, 2).tolist()
    return height, width


def _check_dims(mode: str, min_dim: int | None, max_dim: int | Sequence[int] | None) -> None:
    if mode not in ("square", "pad64", "crop"):
        raise ValueError(f"mode is {mode!r}; use 'none', 'square', 'pad64' or 'crop'")
    if mode == "square" and not max_dim:
        raise ValueError(f"max_dim is {max_dim}; mode 'square' needs the side of the result")
    if mode == "crop" and not min_dim:
        raise ValueError(f"min_dim is {min_dim}; mode 'crop' needs the side of the crop")
    if mode == "pad64" and min_dim and min_dim % 64:
        raise ValueError(f"min_dim is {min_dim}; mode 'pad64' needs a multiple of 64")


def _scale_for(
    height: int,
    width: int,
    min_dim: int | None,
    frame: tuple[int, int] | None,
    min_scale: float | None,
) -> float:
    """`frame`: (height, width) that must hold the scaled image; None for any."""
    scale = max(1, min_dim / min(height, width)) if min_dim else 1
    scale = max(scale, min_scale or 0)
    if frame and (round(height * scale) > frame[0] or round(width * scale) > frame[1]):
        return min(frame[0] / height, frame[1] / width)
    return scale


def scaled_shape(shape: Shape, scale: float) -> tuple[int, int]:
    """(height, width) after scaling, in pixels: halves round to even, at least 1 each."""
    height, width = (max(1, round(int(side) * scale)) for side in shape)
    return height, width


def resize_mask(
    mask: np.ndarray, scale: float, padding: Padding, crop: Window | None = None
) -> np.ndarray:
    """Brings masks [H, W, N] of any dtype to the frame of an image that `resize_image` resized and
    returned scale, padding and crop for (nearest pixel)."""
    if scale != 1:
        height, width = mask.shape[:2]
        new_height, new_width = scaled_shape((height, width), scale)
        rows, columns = _nearest(height, new_height), _nearest(width, new_width)
        mask = mask[rows[:, None], columns]
    if crop is not None:
        y, x, height, width = crop
        return np.asarray(mask[y : y + height, x : x + width])
    return np.pad(mask, padding)


def _nearest(old: int, new: int) -> np.ndarray:
    """[new] source index of each pixel, the first and last pixels meeting as in `ndimage.zoom`."""
    step = (old - 1) / (new - 1) if new > 1 else 1.0
    return np.minimum((np.arange(new) * step + 0.5).astype(np.intp), old - 1)


def minimize_mask(bbox: ArrayLike, mask: np.ndarray, mini_shape: Shape) -> np.ndarray:
    """Stores masks small: each of [H, W, N] bool cropped to its box of [N, 4] and resized.

    Returns:
        [*mini_shape, N] bool.

    Raises:
        Exception: if a box has no area.
    """
    mini = np.zeros((*mini_shape[:2], mask.shape[-1]), bool)
    for i, (y1, x1, y2, x2) in enumerate(np.asarray(bbox)[: mask.shape[-1], :4]):
        inside = mask[y1:y2, x1:x2, i].astype(bool)
        if inside.size == 0:
            raise Exception(
                f"box {i} is ({y1}, {x1}, {y2}, {x2}), which has no area in the mask of "
                f"{mask.shape[:2]} pixels; drop instances without a visible pixel first"
            )
        mini[..., i] = np.around(resize(inside, mini.shape[:2]))
    return mini


def expand_mask(bbox: ArrayLike, mini_mask: np.ndarray, image_shape: Shape) -> np.ndarray:
    """Mini-masks -> masks of full size; the inverse of `minimize_mask`, but for lost detail.

    Args:
        bbox: [N, (y1, x1, y2, x2)] pixels within the image, y2/x2 exclusive.
        mini_mask: [height, width, N] bool or float in 0..1.
        image_shape: (H, W, ...) of the image.

    Returns:
        [H, W, N] bool.
    """
    mask = np.zeros((*image_shape[:2], mini_mask.shape[-1]), bool)
    for i, (y1, x1, y2, x2) in enumerate(np.asarray(bbox)[: mask.shape[-1], :4]):
        mask[y1:y2, x1:x2, i] = np.around(resize(mini_mask[..., i], (y2 - y1, x2 - x1)))
    return mask


def unmold_mask(mask: ArrayLike, bbox: ArrayLike, image_shape: Shape) -> np.ndarray:
    """The mask head's output, [height, width] float in 0..1, -> a mask of the image's size.

    What reaches out of the image is cut off; a box without area gives an empty mask.

    Returns:
        [H, W] bool, True where the resized mask is >= 0.5.
    """
    pasted = paste_masks(np.asarray(mask)[None], np.asarray(bbox)[None], image_shape)
    return np.asarray(pasted[:, :, 0])


def paste_masks(masks: ArrayLike, boxes: ArrayLike, image_shape: Shape) -> np.ndarray:
    """`unmold_mask` for all instances of an image, [N, height, width] and [N, 4] integers.

    Returns:
        [H, W, N] bool; a view with N slowest in memory: each `[:, :, i]` is contiguous.

    Raises:
        ValueError: if masks and boxes don't fit together or boxes aren't integers.
    """
    masks, boxes = np.asarray(masks), np.asarray(boxes)
    is_integer = boxes.dtype.kind in "iu" or not len(boxes)
    if masks.ndim != 3 or boxes.shape != (len(masks), 4) or not is_integer:
        raise ValueError(
            f"got masks {masks.shape} and boxes {boxes.shape} of {boxes.dtype}; pass "
            "[N, height, width] and [N, 4] integers"
        )
    height, width = (int(side) for side in image_shape[:2])
    pasted = np.zeros((len(masks), height, width), bool)
    for mask, (y1, x1, y2, x2), out in zip(masks, boxes.tolist(), pasted, strict=True):
        top, left, bottom, right = max(0, y1), max(0, x1), min(height, y2), min(width, x2)
        if top < bottom and left < right:
            seen = slice(top - y1, bottom - y1), slice(left - x1, right - x1)
            values = _bilinear(mask.astype(np.float32), y2 - y1, x2 - x1, *seen)
            np.greater_equal(values, 0.5, out=out[top:bottom, left:right])
    return pasted.transpose(1, 2, 0)


def stretch_mask(mask: ArrayLike, height: int, width: int) -> np.ndarray:
    """The mask head's output at its box's size, by bilinear interpolation between cell centres.

    Unlike `unmold_mask`, which follows the original, it doesn't fade towards the box's edge,
    where a garment that fills its box would lose a rim.

    Returns:
        [height, width] float32 in 0..1; the mask is where it is >= 0.5.
    """
    return _bilinear(np.asarray(mask, np.float32), height, width, fade=False)


def resize_options(config: Any) -> dict[str, Any]:
    """The arguments of `resize_image` and `plan_resize` that a `Config` sets."""
    return {
        "min_dim": config.IMAGE_MIN_DIM,
        "max_dim": config.IMAGE_MAX_DIM,
        "min_scale": config.IMAGE_MIN_SCALE,
        "mode": config.IMAGE_RESIZE_MODE,
    }


def mold_image(images: ArrayLike, config: Any) -> np.ndarray:
    """RGB images [..., C] -> network input [..., C] float64: less config.MEAN_PIXEL."""
    molded: np.ndarray = np.asarray(images, np.float32) - np.asarray(config.MEAN_PIXEL, np.float64)
    return molded


def unmold_image(normalized_images: np.ndarray, config: Any) -> np.ndarray:
    """The inverse of `mold_image`: network input [..., C] -> RGB images [..., C] uint8."""
    image = normalized_images + np.asarray(config.MEAN_PIXEL, np.float64)
    return np.asarray(image).astype(np.uint8)


def compose_image_meta(
    image_id: Any,
    original_image_shape: Shape,
    image_shape: Shape,
    window: Sequence[int],
    scale: float,
    active_class_ids: Sequence[int] | np.ndarray,
) -> np.ndarray:
    """Packs what the network must know about an image into one row of numbers.

    Args:
        image_id: number, usually the index in the data set.
        original_image_shape, image_shape: (H, W, C) before and after resizing.
        window, scale: as `resize_image` returned them.
        active_class_ids: [NUM_CLASSES] 1 for classes that the image's data set annotates.

    Returns:
        [12 + NUM_CLASSES] float64.

    Raises:
        ValueError: if image_id isn't a number.
    """
    if not isinstance(image_id, (numbers.Real, np.bool_)) or not math.isfinite(image_id):
        raise ValueError(
            f"image_id is {image_id!r}; the meta holds numbers only, pass the image's index "
            "in dataset.image_ids"
        )
    return np.array(
        [image_id, *original_image_shape, *image_shape, *window, scale, *active_class_ids],
        np.float64,
    )


def parse_image_meta(meta: ArrayLike) -> dict[str, np.ndarray]:
    """Unpacks rows of `compose_image_meta`, [batch, 12 + NUM_CLASSES].

    Returns:
        dict: image_id [batch], original_image_shape [batch, (H, W, C)], image_shape
        [batch, (H, W, C)], window [batch, (y1, x1, y2, x2)] and active_class_ids
        [batch, NUM_CLASSES] in int32, scale [batch] in float32.
    """
    meta = np.asarray(meta)
    whole = meta.astype(np.int32)
    return {
        "image_id": whole[:, 0],
        "original_image_shape": whole[:, 1:4],
        "image_shape": whole[:, 4:7],
        "window": whole[:, 7:11],
        "scale": meta[:, 11].astype(np.float32),
        "active_class_ids": whole[:, 12:],
    }
