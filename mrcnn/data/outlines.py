"""Objects' outlines as annotated, drawn where an image's transform puts them.

A mask of the whole image is never made: each object is drawn inside its own box, at the
resolution of the network's input, and a mini-mask is sampled from that.

Coordinates are continuous: pixel (row i, column j) covers [i, i + 1) x [j, j + 1) and its centre
lies at i + 0.5, j + 0.5. That is how pycocotools reads polygons: a pixel is inside if its centre
is (to a tenth of a pixel). A matrix [2, 3] takes (x, y, 1) of the stored image to (x, y) of the
molded one, both continuous. Boxes are (y1, x1, y2, x2) in whole pixels, y2/x2 exclusive.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn.coco.masks import Box, Size, crop, fill, polygons, to_rle

Placed = tuple[Box, np.ndarray]


class Instance(NamedTuple):
    """One object in a molded image.

    class_id: negative for a crowd. box: its tight box. pixels: uint8 [y2 - y1, x2 - x1], 1 inside
    the object.
    """

    class_id: int
    box: Box
    pixels: np.ndarray


class Polygons:
    """An object given by the union of polygons, each filled by the even-odd rule."""

    def __init__(self, parts: Iterable[Sequence[float]]) -> None:
        """Takes lists [x1, y1, x2, y2, ...] in pixels of the stored image."""
        self.parts = [
            np.array(part[: len(part) // 2 * 2], np.float64).reshape(-1, 2) for part in parts
        ]

    def place(self, matrix: np.ndarray, shape: Sequence[int]) -> Placed | None:
        """Draws the object.

        Args:
            matrix: [2, 3], see the module.
            shape: (height, width) of the molded image; what lies beyond is cut off.

        Returns:
            (box, pixels) as in `Instance`, or None if no pixel is left.
        """
        parts = [part @ matrix[:, :2].T + matrix[:, 2] for part in self.parts]
        frame = _whole_frame(np.concatenate(parts), shape)
        if frame is None:
            return None
        top, left, height, width = frame
        # Shifted by whole pixels, so that pycocotools rounds as in a full-size mask.
        flat = [(part - (left, top)).ravel().tolist() for part in parts]
        return _moved(crop(fill(flat, (height, width))), top, left)


class Bitmap:
    """An object given by pixels, cut out of its mask."""

    def __init__(self, pixels: np.ndarray, top: int, left: int) -> None:
        """Takes uint8 [h, w], 1 inside, whose first pixel is (top, left) of the stored image."""
        self.pixels, self.top, self.left = pixels, top, left

    def place(self, matrix: np.ndarray, shape: Sequence[int]) -> Placed | None:
        """As `Polygons.place`; a pixel is inside if at least half of its interpolated value is."""
        import cv2

        height, width = self.pixels.shape
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
        corners += (self.left, self.top)
        frame = _whole_frame(corners @ matrix[:, :2].T + matrix[:, 2], shape)
        if frame is None:
            return None
        top, left, rows, columns = frame
        local = matrix.copy()
        local[:, 2] += matrix[:, :2] @ (self.left, self.top) - (left, top)
        placed = self.pixels
        if not (np.array_equal(local, np.eye(2, 3)) and (rows, columns) == placed.shape):
            warped = cv2.warpAffine(placed * np.uint8(255), by_centres(local), (columns, rows))
            placed = (warped > 127).view(np.uint8)
        return _tight(placed, top, left)


Shape = Polygons | Bitmap


def from_coco(segmentation: Any, size: Size) -> Shape | None:
    """The shape of a COCO annotation's segmentation, in a stored image of `size`.

    Returns:
        None if nothing is inside.

    Raises:
        ValueError: if it is no mask of the image, see `mrcnn.coco.masks`.
    """
    if isinstance(segmentation, list):
        parts = polygons(segmentation, size)
        return Polygons(parts) if parts else None
    return _bitmap(crop(to_rle(segmentation, size)))


def from_masks(masks: np.ndarray) -> list[Shape | None]:
    """Shapes of masks [H, W, N] bool, None for those that are empty."""
    planes = (np.ascontiguousarray(masks[:, :, i], bool) for i in range(masks.shape[-1]))
    return [_bitmap(_tight(plane.view(np.uint8), 0, 0)) for plane in planes]


def _bitmap(placed: Placed | None) -> Bitmap | None:
    if placed is None:
        return None
    (top, left, _, _), pixels = placed
    return Bitmap(pixels, top, left)


def check_masks(
    masks: np.ndarray, class_ids: Sequence[int] | np.ndarray, image_shape: Sequence[int], path: Any
) -> None:
    """Raises ValueError unless masks are [H, W, N] of an image's size, with N class ids."""
    # The base class's load_mask() doesn't know the image's size, so an empty set may have any.
    if masks.ndim != 3 or (masks.shape[-1] and masks.shape[:2] != tuple(image_shape[:2])):
        raise ValueError(
            f"load_mask() gave masks of shape {masks.shape} for the image {path} of "
            f"shape {image_shape}; it must give [height, width, instances]"
        )
    if masks.shape[-1] != len(class_ids):
        raise ValueError(
            f"load_mask() gave {masks.shape[-1]} masks but {len(class_ids)} class ids for "
            f"{path}; give one of each for an object"
        )


def place_all(
    shapes: Sequence[Shape | None],
    class_ids: Sequence[int] | np.ndarray,
    matrix: np.ndarray,
    shape: Sequence[int],
) -> list[Instance]:
    """Those objects that keep a pixel, in their order.

    Args:
        shapes: N of them. class_ids: [N] int.
        matrix, shape: as in `Polygons.place`.
    """
    placed = [None if item is None else item.place(matrix, shape) for item in shapes]
    pairs = zip(class_ids, placed, strict=True)
    return [Instance(int(class_id), *drawn) for class_id, drawn in pairs if drawn is not None]


def hide(
    instances: Iterable[Instance],
    box: Box,
    pixels: np.ndarray | None,
    min_share: float = 0.0,
) -> list[Instance]:
    """Takes away what something in front covers.

    Args:
        box: of what is in front, within the image.
        pixels: uint8 [y2 - y1, x2 - x1], 1 where it covers; None covers the whole box.
        min_share: objects of which less than this share of the pixels is left are dropped,
            and so are those with none.

    Returns:
        New ones where they changed.
    """
    kept = []
    for instance in instances:
        y1, x1, y2, x2 = instance.box
        top, left = max(y1, box[0]), max(x1, box[1])
        bottom, right = min(y2, box[2]), min(x2, box[3])
        if top >= bottom or left >= right:
            kept.append(instance)
            continue
        left_over = instance.pixels.copy()
        part = left_over[top - y1 : bottom - y1, left - x1 : right - x1]
        if pixels is None:
            part[:] = 0
        else:
            part &= 1 - pixels[top - box[0] : bottom - box[0], left - box[1] : right - box[1]]
        remaining = _tight(left_over, y1, x1)
        if remaining and left_over.sum() >= min_share * instance.pixels.sum():
            kept.append(Instance(instance.class_id, *remaining))
    return kept


def pack(instances: Sequence[Instance], shape: Sequence[int]) -> np.ndarray:
    """Full-size masks of a few objects, a bit each: uint8 [H, W, ceil(N / 8), at least 1]."""
    packed = np.zeros((*shape[:2], max(1, -(-len(instances) // 8))), np.uint8)
    for i, (_, (y1, x1, y2, x2), pixels) in enumerate(instances):
        packed[y1:y2, x1:x2, i // 8] |= pixels << np.uint8(i % 8)
    return packed


def unpack(packed: np.ndarray, class_ids: Iterable[int]) -> list[Instance]:
    """The inverse of `pack`; objects without a pixel are left out."""
    instances = []
    for i, class_id in enumerate(class_ids):
        bit = (packed[:, :, i // 8] >> np.uint8(i % 8)) & np.uint8(1)
        placed = _tight(bit, 0, 0)
        if placed is not None:
            instances.append(Instance(int(class_id), *placed))
    return instances


def as_arrays(
    instances: Sequence[Instance], shape: Sequence[int], mini_shape: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N objects as training stores them.

    Args:
        shape: (H, W) of the molded image.
        mini_shape: (height, width) of mini-masks, or None for masks of H x W.

    Returns:
        class_ids int32 [N], boxes int32 [N, 4], masks bool [height, width, N].
    """
    class_ids = np.array([item.class_id for item in instances], np.int32)
    boxes = np.array([item.box for item in instances], np.int32).reshape(-1, 4)
    masks = np.zeros((*(mini_shape or shape)[:2], len(instances)), bool)
    for i, (_, (y1, x1, y2, x2), pixels) in enumerate(instances):
        if mini_shape is None:
            masks[y1:y2, x1:x2, i] = pixels
        else:
            masks[:, :, i] = _minimized(pixels, mini_shape)
    return class_ids, boxes, masks


def by_centres(matrix: np.ndarray) -> np.ndarray:
    """A matrix [2, 3] between continuous coordinates -> one between indices of pixels."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return shifted


def _minimized(pixels: np.ndarray, mini_shape: Sequence[int]) -> np.ndarray:
    """bool [height, width]: bilinear samples of a box's pixels, those above a half."""
    import cv2

    size = (int(mini_shape[1]), int(mini_shape[0]))
    return cv2.resize(pixels.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5


def _whole_frame(points: np.ndarray, shape: Sequence[int]) -> Box | None:
    """(top, left, height, width) of whole pixels around points (x, y), cut to the image."""
    low = np.floor(points.min(axis=0))
    high = np.ceil(points.max(axis=0))
    left, top = (int(value) for value in np.maximum(low, 0))
    right, bottom = (int(value) for value in np.minimum(high, (shape[1], shape[0])))
    return (top, left, bottom - top, right - left) if bottom > top and right > left else None


def _tight(pixels: np.ndarray, top: int, left: int) -> Placed | None:
    """(box, pixels) cut to what is not 0, or None; `top`, `left` say where `pixels` begins."""
    import cv2

    x, y, columns, rows = cv2.boundingRect(pixels)
    if not (rows and columns):
        return None
    part = np.ascontiguousarray(pixels[y : y + rows, x : x + columns])
    return _moved(((y, x, y + rows, x + columns), part), top, left)


def _moved(placed: Placed | None, top: int, left: int) -> Placed | None:
    """The box counted from a frame whose first pixel is (top, left)."""
    if placed is None:
        return None
    (y1, x1, y2, x2), pixels = placed
    return (top + y1, left + x1, top + y2, left + x2), pixels
