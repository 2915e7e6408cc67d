"""Instances drawn into images: arrays in, arrays out, without matplotlib.

H, W: height and width of the image in pixels. N: number of instances.
Boxes are [N, (y1, x1, y2, x2)], pixels of the image, y2 and x2 exclusive; masks are
[H, W, N] bool. Colours are (red, green, blue): 0..255 where arrays are drawn (`color_for`,
`draw_instances`, `draw_box`), 0..1 in the matterport family that matplotlib shows.
"""

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mrcnn.core.classes import check_names

# Kept apart for normal, red-blind and green-blind eyes: Okabe and Ito's colours, then those
# farthest from all earlier ones by CIEDE2000 in all three views.
PALETTE = (
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


def color_for(class_id):
    """The colour of a class: the same in each run, whatever else is in the image.

    Args:
        class_id: int, 0 or more.

    Returns:
        (red, green, blue), int 0..255.
    """
    class_id = int(class_id)
    if class_id < 0:
        raise ValueError(f"color_for() got class id {class_id}; pass 0 or more")
    if class_id < len(PALETTE):
        return PALETTE[class_id]
    value = 1.0 - 0.2 * (class_id % 3)
    return tuple(
        round(255 * c) for c in colorsys.hsv_to_rgb(class_id * GOLDEN_RATIO % 1, 0.8, value)
    )


def class_colors(class_ids):
    """`color_for` each of [N] ids: a list of N tuples."""
    return [color_for(i) for i in class_ids]


def label_text(class_id, class_names, score=None):
    """'trousers 0.98', or 'trousers' without a score.

    Args:
        class_id: int.
        class_names: names by class id, background first.
        score: float 0..1 or None.

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


def draw_instances(image, boxes, masks, class_ids, class_names, scores=None):
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

    def crop(i):
        y1, x1, y2, x2 = boxes[i]
        return masks[y1:y2, x1:x2, i]

    texts = label_texts(class_ids, class_names, scores)
    canvas = Image.fromarray(np.ascontiguousarray(image))
    colors = class_colors(class_ids)
    _draw(canvas, boxes, None if masks is None else crop, colors)
    _paste_labels(canvas, [(boxes[i], texts[i], colors[i]) for i in _order(boxes)])
    return np.array(canvas)


def draw_shapes(result):
    """An image with fills, outlines and boxes of its garments, as yet without labels.

    Args:
        result: `results.Result`; its masks at full size are not needed.

    Returns:
        PIL image of mode RGB.
    """
    canvas = Image.fromarray(np.ascontiguousarray(result.image))
    _draw(canvas, result.boxes, result.crop, class_colors(result.class_ids))
    return canvas


def draw_labels(canvas, result, legend=False):
    """Adds the labels to what `draw_shapes` gave, in place.

    Args:
        legend: name the classes in a corner too, each on its colour.
    """
    texts = label_texts(result.class_ids, result.class_names, result.scores)
    colors = class_colors(result.class_ids)
    _paste_labels(canvas, [(result.boxes[i], texts[i], colors[i]) for i in _order(result.boxes)])
    if legend and len(result):
        _paste_legend(canvas, sorted({int(i) for i in result.class_ids}), result.class_names)


def _order(boxes):
    """Row numbers of boxes [N, 4] int that have an area, the largest first."""
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(0).astype(np.int64).prod(axis=1)
    return [i for i in np.argsort(-areas, kind="stable") if areas[i]]


def _draw(canvas, boxes, crop, colors):
    """Draws into a canvas; boxes [N, 4] int within it, crop(i) the mask in box i, or None."""
    width = max(1, round(max(canvas.size) / 500))
    pen = ImageDraw.Draw(canvas)
    for i in _order(boxes):
        y1, x1, y2, x2 = map(int, boxes[i])
        if crop is not None:
            paste_mask(canvas, crop(i), (x1, y1), colors[i], width)
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colors[i], width=width)


def _paste_legend(canvas, class_ids, class_names):
    """Class names under each other in the lower left corner."""
    font = _font(canvas)
    tiles = [_label_tile(class_names[i], font, color_for(i)) for i in class_ids]
    size = max(t.width for t in tiles), sum(t.height for t in tiles)
    column, top = Image.new("RGB", size), 0
    for tile, class_id in zip(tiles, class_ids, strict=True):
        column.paste(color_for(class_id), (0, top, column.width, top + tile.height))
        column.paste(tile, (0, top))
        top += tile.height
    column.thumbnail(canvas.size)
    canvas.paste(column, (0, canvas.height - column.height))


def checked_boxes(image, boxes, masks, **others):
    """The boxes as [N, 4], after all arguments were held against each other."""
    boxes = np.asarray(boxes)
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


def label_texts(class_ids, class_names, scores):
    # A list without the background would give each instance its neighbour's name.
    check_names(class_names, len(class_names))
    scores = [None] * len(class_ids) if scores is None else scores
    return [label_text(i, class_names, s) for i, s in zip(class_ids, scores, strict=True)]


def whole_boxes(boxes, image_shape):
    """Boxes grown to whole pixels and cut to the image; [N, 4] int."""
    height, width = image_shape[:2]
    low, high = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
    return np.clip(np.hstack([low, high]), 0, [height, width, height, width]).astype(int)


def paste_mask(canvas, mask, corner, color, width):
    """Fills a mask [h, w] whose top left pixel is at `corner` (x, y), and draws its outline."""
    inside = np.ascontiguousarray(mask).astype(bool)
    core = inside
    for _ in range(width):
        # What has four neighbours in the mask is not outline; beyond the box counts as outside.
        p = np.pad(core, 1)
        core = p[1:-1, 1:-1] & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    opacity = np.where(core, np.uint8(255 * FILL_ALPHA), inside * np.uint8(255))
    x, y = corner
    area = (x, y, x + mask.shape[1], y + mask.shape[0])
    canvas.paste(color, area, Image.fromarray(opacity))


def _paste_labels(canvas, labels):
    """Pastes (box, text, colour) labels in place, apart from each other where there is room."""
    font = _font(canvas)
    taken: list[tuple[int, int, int, int]] = []
    for box, text, color in labels:
        if not text:
            continue
        tile = _label_tile(text, font, color)
        # A name that is wider than a tiny image gets small, not cut.
        tile.thumbnail(canvas.size)
        spots = _label_spots(box, tile.size, canvas.size)
        spot = next((s for s in spots if not any(_overlap(s, t) for t in taken)), spots[0])
        canvas.paste(tile, spot[:2])
        taken.append(spot)


def _font(canvas):
    return ImageFont.load_default(max(10, round(max(canvas.size) / 60)))


def _label_tile(text, font, color):
    """Text on a ground of `color`, black or white by which is easier to read."""
    left, top, right, bottom = font.getbbox(text)
    margin = max(2, round((bottom - top) / 5))
    size = (round(right - left) + 2 * margin, round(bottom - top) + 2 * margin)
    tile = Image.new("RGB", size, tuple(color))
    bright = np.dot(color, (0.299, 0.587, 0.114)) > 128
    ImageDraw.Draw(tile).text(
        (margin - left, margin - top), text, font=font, fill=(0, 0, 0) if bright else (255,) * 3
    )
    return tile


def _label_spots(box, tile_size, canvas_size):
    """Places (x1, y1, x2, y2) for a label, best first, all inside the image."""
    y1, x1, y2, x2 = map(int, box)
    width, height = tile_size
    corners = ((x1, y1 - height), (x1, y1), (x2 - width, y1), (x1, y2), (x1, y2 - height))
    spots = []
    for x, y in corners:
        x = min(max(x, 0), canvas_size[0] - width)
        y = min(max(y, 0), canvas_size[1] - height)
        spots.append((x, y, x + width, y + height))
    return spots


def _overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def draw_box(image, box, color):
    """Draws a box, 2 pixels wide, into `image` and returns it.

    Args:
        image: [H, W, 3], changed in place.
        box: (y1, x1, y2, x2), pixels.
        color: three numbers in the range of the image's values.
    """
    y1, x1, y2, x2 = whole_boxes(np.asarray(box)[np.newaxis], image.shape)[0]
    inner = image[y1 + 2 : max(y2 - 2, y1 + 2), x1 + 2 : max(x2 - 2, x1 + 2)].copy()
    image[y1:y2, x1:x2] = color
    image[y1 + 2 : y1 + 2 + inner.shape[0], x1 + 2 : x1 + 2 + inner.shape[1]] = inner
    return image


def apply_mask(image, mask, color, alpha=0.5):
    """Tints the pixels of a mask in `image` and returns it.

    Args:
        image: [H, W, 3], values 0..255, changed in place.
        mask: [H, W] bool or 0/1.
        color: three floats 0..1.
        alpha: 0 leaves the image, 1 paints over it.
    """
    mask = np.asarray(mask).astype(bool)
    tinted = image[mask] * (1 - alpha) + alpha * 255 * np.asarray(color)
    image[mask] = tinted.astype(image.dtype)
    return image


def random_colors(N, bright=True):
    """N colours whose hues are evenly spread, in shuffled order.

    Args:
        N: int, how many.
        bright: False takes 70 % of the brightness.

    Returns:
        list of N (red, green, blue), floats 0..1; the same for the same N.
    """
    value = 1.0 if bright else 0.7
    hues = np.random.default_rng(N).permutation(N) / max(N, 1)
    return [colorsys.hsv_to_rgb(hue, 1, value) for hue in hues]
