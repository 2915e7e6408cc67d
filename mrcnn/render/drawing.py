"""Instances drawn into images, without matplotlib.

H, W: height and width of the image in pixels. N: number of instances.
Boxes are [N, (y1, x1, y2, x2)], pixels of the image, y2 and x2 exclusive; masks are
[H, W, N] bool. Colours are (red, green, blue), 0..255.
"""

import colorsys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mrcnn.core.classes import check_names

Color = tuple[int, int, int]

# Distinct to normal, red-blind and green-blind eyes: Okabe and Ito's colours, then those
# farthest from all earlier ones by CIEDE2000 in all three views.
PALETTE: tuple[Color, ...] = (
    (235, 235, 235),  # background, not drawn
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (120, 0, 30),
    (135, 255, 225),
    (60, 45, 90),
    (0, 0, 210),
    (180, 30, 0),
    (180, 210, 150),
    (0, 105, 75),
    (120, 225, 240),
)
# Turning the hue by this share of the circle never comes back to an earlier hue.
GOLDEN_RATIO = 0.618034
FILL_ALPHA = 0.35


def color_for(class_id: int) -> Color:
    """The colour of a class id: the same in each run, whatever else is in the image."""
    class_id = int(class_id)
    if class_id < 0:
        raise ValueError(f"color_for() got class id {class_id}; pass 0 or more")
    if class_id < len(PALETTE):
        return PALETTE[class_id]
    value = 1.0 - 0.2 * (class_id % 3)
    red, green, blue = colorsys.hsv_to_rgb(class_id * GOLDEN_RATIO % 1, 0.8, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def class_colors(class_ids: Iterable[int]) -> list[Color]:
    """`color_for` each of N ids."""
    return [color_for(i) for i in class_ids]


def label_text(class_id: int, class_names: Sequence[str], score: float | None = None) -> str:
    """'trousers 0.98', or 'trousers' without a score.

    Args:
        class_names: by class id, background first.

    Raises:
        ValueError: if the class id has no name.
    """
    if not 0 <= class_id < len(class_names):
        raise ValueError(
            f"class id {class_id} has no name: got {len(class_names)} class names, background "
            f"included, for ids 0 to {len(class_names) - 1}; pass the names of the model's classes"
        )
    name = class_names[int(class_id)]
    return name if score is None else f"{name} {score:.2f}"


def label_texts(
    class_ids: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    scores: Sequence[float] | np.ndarray | None,
) -> list[str]:
    """`label_text` of each instance; names without the background, which shift ids, are refused."""
    check_names(class_names, len(class_names))
    each = [None] * len(class_ids) if scores is None else scores
    return [label_text(i, class_names, s) for i, s in zip(class_ids, each, strict=True)]


def draw_instances(
    image: np.ndarray,
    boxes: Any,
    masks: np.ndarray | None,
    class_ids: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    scores: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Draws instances over an image: a light fill, the mask's outline, box and label.

    Masks are drawn inside their boxes only. Larger instances lie below smaller ones, labels
    on top; line width and font size follow the image's size.

    Args:
        image: [H, W, 3] uint8.
        boxes: [N, (y1, x1, y2, x2)].
        masks: [H, W, N] bool, or None for boxes and labels only.
        class_ids: [N] int.
        class_names: names by class id, background first.
        scores: [N] float, or None for labels without scores.

    Returns:
        [H, W, 3] uint8, a new array.

    Raises:
        ValueError: if the arrays do not fit together or a class id has no name.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"draw_instances() got an image of {image.dtype} {image.shape}; pass [H, W, 3] uint8"
        )
    boxes = checked_boxes(image, boxes, masks, class_ids=class_ids, scores=scores)
    boxes = whole_boxes(boxes, image.shape)
    texts, colors = label_texts(class_ids, class_names, scores), class_colors(class_ids)
    crop = None if masks is None else lambda i: masks[*window(boxes[i]), i]
    canvas = draw_shapes(image, boxes, crop, colors)
    draw_labels(canvas, boxes, texts, colors)
    return np.array(canvas)


def window(box: np.ndarray) -> tuple[slice, slice]:
    """The slices that cut a box (y1, x1, y2, x2) of ints out of an image."""
    y1, x1, y2, x2 = box.tolist()
    return slice(y1, y2), slice(x1, x2)


def draw_shapes(
    image: np.ndarray,
    boxes: np.ndarray,
    crop: Callable[[int], np.ndarray] | None,
    colors: Sequence[Color],
) -> Image.Image:
    """A copy of an image with fills, outlines and boxes of instances, without labels.

    Args:
        image: [H, W, 3] uint8.
        boxes: [N, 4] int, within the image.
        crop: the mask of instance i within its box; None: boxes only.
    """
    canvas = Image.fromarray(np.ascontiguousarray(image))
    width = max(1, round(max(canvas.size) / 500))
    pen = ImageDraw.Draw(canvas)
    for i in _largest_first(boxes):
        y1, x1, y2, x2 = boxes[i].tolist()
        if crop is not None:
            paste_mask(canvas, crop(i), (x1, y1), colors[i], width)
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colors[i], width=width)
    return canvas


def draw_labels(
    canvas: Image.Image, boxes: np.ndarray, texts: Sequence[str], colors: Sequence[Color]
) -> None:
    """Adds the labels to what `draw_shapes` gave, in place."""
    _paste_labels(canvas, [(boxes[i], texts[i], colors[i]) for i in _largest_first(boxes)])


def draw_legend(canvas: Image.Image, class_ids: Iterable[int], class_names: Sequence[str]) -> None:
    """Names the classes under each other in the lower left corner, in place."""
    font, ids = _font(canvas), sorted({int(i) for i in class_ids})
    if not ids:
        return
    tiles = [_label_tile(class_names[i], font, color_for(i)) for i in ids]
    size = max(t.width for t in tiles), sum(t.height for t in tiles)
    column, top = Image.new("RGB", size), 0
    for tile, class_id in zip(tiles, ids, strict=True):
        column.paste(color_for(class_id), (0, top, column.width, top + tile.height))
        column.paste(tile, (0, top))
        top += tile.height
    column.thumbnail(canvas.size)
    canvas.paste(column, (0, canvas.height - column.height))


def _largest_first(boxes: np.ndarray) -> list[int]:
    """Rows of boxes [N, 4] int that have an area."""
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(0).astype(np.int64).prod(axis=1)
    return [i for i in np.argsort(-areas, kind="stable").tolist() if areas[i]]


def checked_boxes(
    image: np.ndarray, given: Any, masks: np.ndarray | None, **others: Any
) -> np.ndarray:
    """The boxes as [N, 4], after all arguments were checked against each other."""
    boxes: np.ndarray = np.asarray(given)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ValueError(f"got boxes of shape {boxes.shape}; pass finite [N, (y1, x1, y2, x2)]")
    if masks is not None and masks.shape != (*image.shape[:2], len(boxes)):
        raise ValueError(
            f"got masks of shape {masks.shape} for {len(boxes)} boxes on an image of "
            f"{image.shape[0]} x {image.shape[1]}; pass [H, W, N]"
        )
    for name, values in others.items():
        if values is not None and len(values) != len(boxes):
            raise ValueError(f"got {len(values)} {name} for {len(boxes)} boxes; pass one for each")
    return boxes


def whole_boxes(boxes: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """Boxes grown to whole pixels and cut to the image; [N, 4] int."""
    height, width = image_shape[:2]
    low, high = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
    return np.clip(np.hstack([low, high]), 0, [height, width, height, width]).astype(int)


def paste_mask(
    canvas: Image.Image, mask: np.ndarray, corner: tuple[int, int], color: Color, width: int
) -> None:
    """Fills a mask [h, w] whose top left pixel is at `corner` (x, y), and draws its outline."""
    inside = np.ascontiguousarray(mask).astype(bool)
    core = inside
    for _ in range(width):
        # A pixel with four neighbours in the mask is no outline; beyond the box counts as outside.
        p = np.pad(core, 1)
        core = p[1:-1, 1:-1] & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    opacity = np.where(core, np.uint8(255 * FILL_ALPHA), inside * np.uint8(255))
    x, y = corner
    area = (x, y, x + mask.shape[1], y + mask.shape[0])
    canvas.paste(color, area, Image.fromarray(opacity))


# --- Labels -----------------------------------------------------------------------------------

Span = tuple[int, int, int, int]  # x1, y1, x2, y2


def _paste_labels(canvas: Image.Image, labels: Iterable[tuple[Any, str, Color]]) -> None:
    """Pastes (box, text, colour) labels in place, without overlap where there is room."""
    font = _font(canvas)
    taken: list[Span] = []
    for box, text, color in labels:
        if not text:
            continue
        tile = _label_tile(text, font, color)
        # A name that is wider than a tiny image is shrunk, not cut.
        tile.thumbnail(canvas.size)
        spots = _label_spots(box, tile.size, canvas.size)
        spot = next((s for s in spots if not any(_overlap(s, t) for t in taken)), spots[0])
        canvas.paste(tile, spot[:2])
        taken.append(spot)


def _font(canvas: Image.Image) -> Any:
    return ImageFont.load_default(max(10, round(max(canvas.size) / 60)))


def _label_tile(text: str, font: Any, color: Color) -> Image.Image:
    """Text on a ground of `color`, black or white by which is easier to read."""
    left, top, right, bottom = font.getbbox(text)
    margin = max(2, round((bottom - top) / 5))
    size = (round(right - left) + 2 * margin, round(bottom - top) + 2 * margin)
    tile = Image.new("RGB", size, color)
    bright = np.dot(color, (0.299, 0.587, 0.114)) > 128
    fill = (0, 0, 0) if bright else (255, 255, 255)
    ImageDraw.Draw(tile).text((margin - left, margin - top), text, font=font, fill=fill)
    return tile


def _label_spots(
    box: Sequence[int], tile_size: tuple[int, int], canvas_size: tuple[int, int]
) -> list[Span]:
    """Places for a label, best first, all inside the image."""
    y1, x1, y2, x2 = map(int, box)
    width, height = tile_size
    corners = ((x1, y1 - height), (x1, y1), (x2 - width, y1), (x1, y2), (x1, y2 - height))
    spots = []
    for x, y in corners:
        x = min(max(x, 0), canvas_size[0] - width)
        y = min(max(y, 0), canvas_size[1] - height)
        spots.append((x, y, x + width, y + height))
    return spots


def _overlap(a: Span, b: Span) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
