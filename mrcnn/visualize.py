"""matterport's notebook family: figures of images, instances and scores.

H, W: height and width of the image in pixels. N: number of instances.
Boxes are [N, (y1, x1, y2, x2)], pixels of the image, y2 and x2 exclusive; masks are
[H, W, N] bool; colours (red, green, blue) of 0..1. A given `ax` is drawn on; else a new figure
is shown. `mrcnn/render/drawing.py`, whose names are here too, draws without matplotlib.
"""

import colorsys
import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mrcnn.core.image import unmold_mask
from mrcnn.evaluation.per_image import compute_matches
from mrcnn.render.drawing import (
    checked_boxes,
    class_colors,
    color_for,
    draw_instances,
    label_text,
    label_texts,
    paste_mask,
    whole_boxes,
)

__all__ = [
    "apply_mask",
    "class_colors",
    "color_for",
    "display_differences",
    "display_images",
    "display_instances",
    "display_table",
    "display_top_masks",
    "display_weight_stats",
    "draw_box",
    "draw_boxes",
    "draw_instances",
    "draw_rois",
    "label_text",
    "plot_overlaps",
    "plot_precision_recall",
    "random_colors",
]


# --- Arrays -----------------------------------------------------------------------------------


def random_colors(N: int, bright: bool = True) -> list[tuple[float, float, float]]:
    """N colours whose hues are evenly spread, in shuffled order; the same for the same N.

    bright: False takes 70 % of the brightness.
    """
    value = 1.0 if bright else 0.7
    hues = np.random.default_rng(N).permutation(N) / max(N, 1)
    return [colorsys.hsv_to_rgb(hue, 1, value) for hue in hues]


def apply_mask(image: np.ndarray, mask: Any, color: Any, alpha: float = 0.5) -> np.ndarray:
    """Tints the pixels of a mask in `image` and returns it.

    image: [H, W, 3], values 0..255, changed in place. mask: [H, W] bool or 0/1. alpha: 0 leaves
    the image, 1 paints over it.
    """
    mask = np.asarray(mask).astype(bool)
    tinted = image[mask] * (1 - alpha) + alpha * 255 * np.asarray(color)
    image[mask] = tinted.astype(image.dtype)
    return image


def draw_box(image: np.ndarray, box: Any, color: Any) -> np.ndarray:
    """Draws a box, 2 pixels wide, into `image` and returns it.

    image: [H, W, 3], changed in place. color: in the range of the image's values.
    """
    y1, x1, y2, x2 = whole_boxes(np.asarray(box)[np.newaxis], image.shape)[0]
    inner = image[y1 + 2 : max(y2 - 2, y1 + 2), x1 + 2 : max(x2 - 2, x1 + 2)].copy()
    image[y1:y2, x1:x2] = color
    image[y1 + 2 : y1 + 2 + inner.shape[0], x1 + 2 : x1 + 2 + inner.shape[1]] = inner
    return image


# --- Figures ----------------------------------------------------------------------------------


def display_images(
    images: Sequence[Any],
    titles: Sequence[str] | None = None,
    cols: int = 4,
    cmap: Any = None,
    norm: Any = None,
    interpolation: str | None = None,
) -> None:
    """Shows images, [H, W] or [H, W, 3] each, in a grid of `cols` columns.

    titles: a string for each image. cmap, norm, interpolation: as in matplotlib's imshow.
    """
    from matplotlib import pyplot

    titles = [""] * len(images) if titles is None else titles
    rows = max(1, -(-len(images) // cols))
    pyplot.figure(figsize=(14, 14 * rows / cols))
    for i, (image, title) in enumerate(zip(images, titles, strict=True), 1):
        ax = pyplot.subplot(rows, cols, i)
        ax.set_title(title, fontsize=9)
        ax.axis("off")
        ax.imshow(image, cmap=cmap, norm=norm, interpolation=interpolation)
    pyplot.show()


def display_instances(
    image: np.ndarray,
    boxes: Any,
    masks: Any,
    class_ids: Any,
    class_names: Sequence[str],
    scores: Any = None,
    title: str = "",
    figsize: tuple[float, float] = (16, 16),
    ax: Any = None,
    show_mask: bool = True,
    show_bbox: bool = True,
    colors: Any = None,
    captions: Any = None,
) -> None:
    """Shows instances on an image; arguments as in `draw_instances`.

    colors: N tuples of floats 0..1; None takes the class colours. captions: N strings in
    place of name and score.
    """
    class_ids = np.abs(np.asarray(class_ids, int))  # crowds have negative ids
    if captions is None:
        captions = label_texts(class_ids, class_names, scores)
    if colors is None:
        colors = [np.divide(c, 255) for c in class_colors(class_ids)]
    masks = masks if show_mask else None
    styles: list[dict[str, Any]] | None = None
    if show_bbox:
        styles = [{"linestyle": "dashed"}] * len(class_ids)
    _show(image, boxes, masks, colors, captions, styles, title=title, figsize=figsize, ax=ax)


def display_differences(
    image: np.ndarray,
    gt_box: np.ndarray,
    gt_class_id: Any,
    gt_mask: np.ndarray,
    pred_box: np.ndarray,
    pred_class_id: Any,
    pred_score: Any,
    pred_mask: np.ndarray,
    class_names: Sequence[str],
    title: str = "",
    ax: Any = None,
    show_mask: bool = True,
    show_box: bool = True,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.5,
) -> None:
    """Shows ground truth in green and predictions in red, captioned "score / IoU".

    The IoU is that with the matched instance, or the highest one without a match.
    score_threshold: a second bound on the IoU, whatever its name; see `compute_matches`.
    """
    best_first = np.argsort(-np.asarray(pred_score), kind="stable")
    best_first = best_first[pred_box[best_first].any(axis=1)]  # without padding
    pred_box, pred_class_id = pred_box[best_first], pred_class_id[best_first]
    pred_score, pred_mask = pred_score[best_first], pred_mask[..., best_first]
    # compute_matches() sorts by score too; ranks keep the order of equal scores.
    ranks = np.arange(len(pred_score), 0, -1)
    _, pred_match, overlaps = compute_matches(
        *(gt_box, gt_class_id, gt_mask, pred_box, pred_class_id, ranks, pred_mask),
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
    )
    ious = [
        row[int(match)] if match > -1 else row.max(initial=0)
        for row, match in zip(overlaps, pred_match, strict=True)
    ]
    captions = [f"{s:.2f} / {iou:.2f}" for s, iou in zip(pred_score, ious, strict=True)]
    display_instances(
        image,
        np.concatenate([gt_box, pred_box]),
        np.concatenate([gt_mask, pred_mask], axis=2),
        np.concatenate([gt_class_id, pred_class_id]),
        class_names,
        title=title or "Ground truth (green) and detections (red: score / IoU)",
        ax=ax,
        show_mask=show_mask,
        show_bbox=show_box,
        colors=[(0, 0.8, 0)] * len(gt_box) + [(1, 0, 0)] * len(pred_box),
        captions=[""] * len(gt_box) + captions,
    )


def draw_rois(
    image: np.ndarray,
    rois: np.ndarray,
    refined_rois: np.ndarray,
    mask: np.ndarray,
    class_ids: Any,
    class_names: Sequence[str],
    limit: int = 10,
) -> None:
    """Shows at most `limit` RoIs: dashed, with the refined box solid; background in grey.

    rois, refined_rois: [N, (y1, x1, y2, x2)]. mask: [N, h, w], each in the frame of its RoI.
    """
    chosen = np.unique(np.linspace(0, len(rois) - 1, min(limit, len(rois))).astype(int))
    rois, refined_rois = rois[chosen], refined_rois[chosen]
    class_ids = np.asarray(class_ids)[chosen]
    masks = np.zeros((*image.shape[:2], len(chosen)), bool)
    for i in np.flatnonzero(class_ids > 0):
        masks[..., i] = unmold_mask(mask[chosen[i]], rois[i].astype(int), image.shape)
    names = label_texts(class_ids, class_names, None)
    captions = [name if i > 0 else "" for name, i in zip(names, class_ids, strict=True)]
    visible = np.where(class_ids > 0, 1, 0)
    title = f"{len(chosen)} RoIs, {(class_ids > 0).sum()} of them positive"
    draw_boxes(image, rois, refined_rois, masks, captions, visible, title)


def draw_boxes(
    image: np.ndarray,
    boxes: Any = None,
    refined_boxes: Any = None,
    masks: Any = None,
    captions: Any = None,
    visibilities: Any = None,
    title: str = "",
    ax: Any = None,
) -> None:
    """Shows boxes and, joined to them by a line, what they were refined to.

    captions: N strings. visibilities: [N], 0 for grey, 1 for dashed, 2 for solid.
    """
    if boxes is None and refined_boxes is None:
        raise ValueError("draw_boxes() got neither boxes nor refined_boxes; pass one of them")
    refined = None if boxes is None else refined_boxes
    boxes = refined_boxes if boxes is None else boxes
    captions = [""] * len(boxes) if captions is None else captions
    levels = [1] * len(boxes) if visibilities is None else visibilities
    colors = [
        c if v else (0.5,) * 3 for c, v in zip(random_colors(len(boxes)), levels, strict=True)
    ]
    styles = [{"linestyle": "solid" if v == 2 else "dashed"} for v in levels]
    _show(image, boxes, masks, colors, captions, styles, refined, title, (12, 12), ax)


def _show(
    image: np.ndarray,
    boxes: Any,
    masks: Any,
    colors: Sequence[Any],
    captions: Sequence[str],
    styles: Sequence[dict[str, Any]] | None,
    refined: Any = None,
    title: str = "",
    figsize: tuple[float, float] | None = None,
    ax: Any = None,
) -> None:
    """One figure of the image, masks, boxes (unless styles is None) and captions."""
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    boxes = checked_boxes(image, boxes, masks, colors=colors, captions=captions, styles=styles)
    target = ax or pyplot.subplots(1, figsize=figsize)[1]
    canvas = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).convert("RGB")
    for i, ((y1, x1, y2, x2), color) in enumerate(zip(boxes, colors, strict=True)):
        if masks is not None:
            paste_mask(canvas, masks[..., i], (0, 0), tuple(round(255 * c) for c in color), 1)
        if y2 <= y1 or x2 <= x1:
            continue  # padding
        if styles is not None:
            box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, **styles[i])
            target.add_patch(box)
        if refined is not None:
            ry1, rx1, ry2, rx2 = refined[i]
            target.add_patch(
                Rectangle((rx1, ry1), rx2 - rx1, ry2 - ry1, fill=False, edgecolor=color)
            )
            target.plot([x1, rx1], [y1, ry1], color=color)
        target.text(x1, y1 + 8, captions[i], color="w", size=11, backgroundcolor="none")
    target.imshow(canvas)
    target.set_title(title)
    target.axis("off")
    if ax is None:
        pyplot.show()


def display_top_masks(
    image: np.ndarray, mask: np.ndarray, class_ids: Any, class_names: Sequence[str], limit: int = 4
) -> None:
    """Shows the image and the masks of the `limit` classes that cover most of it.

    mask: [H, W, N]. class_ids: [N].
    """
    class_ids = np.asarray(class_ids)
    together = {int(i): mask[..., class_ids == i].any(axis=2) for i in np.unique(class_ids)}
    largest = sorted(together, key=lambda i: -together[i].sum())[:limit]
    titles = [f"{image.shape[0]} x {image.shape[1]}", *label_texts(largest, class_names, None)]
    display_images([image, *(together[i] for i in largest)], titles, cols=limit + 1, cmap="Blues_r")


def plot_precision_recall(AP: float, precisions: Any, recalls: Any) -> None:
    """Shows the precision-recall curve; precisions, recalls: [points], AP: their average."""
    from matplotlib import pyplot

    _, ax = pyplot.subplots(1)
    ax.set(title=f"Precision-recall curve, AP@50 = {AP:.3f}", xlabel="recall", ylabel="precision")
    ax.set(xlim=(0, 1.1), ylim=(0, 1.1))
    ax.plot(recalls, precisions)
    pyplot.show()


def plot_overlaps(
    gt_class_ids: Any,
    pred_class_ids: Any,
    pred_scores: Any,
    overlaps: Any,
    class_names: Sequence[str],
    threshold: float = 0.5,
) -> None:
    """Shows the IoU of each prediction (row) with each ground truth instance (column).

    overlaps: [predictions, instances]. Above `threshold`, "match" or "wrong" tells whether the
    classes agree.
    """
    from matplotlib import pyplot

    rows = label_texts(pred_class_ids, class_names, pred_scores)
    columns = label_texts(gt_class_ids, class_names, None)
    _, ax = pyplot.subplots(figsize=(12, 10))
    if np.size(overlaps):
        ax.imshow(overlaps, cmap="Blues", vmin=0, vmax=1)
    ax.set(xlabel="ground truth", ylabel="predictions")
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xticks(range(len(columns)), columns, rotation=90)
    for (i, j), iou in np.ndenumerate(overlaps):
        same = pred_class_ids[i] == gt_class_ids[j]
        verdict = ("match" if same else "wrong") if iou > threshold else ""
        color = "white" if iou > 0.5 else "black"
        ax.text(j, i, f"{iou:.3f}\n{verdict}", ha="center", va="center", fontsize=9, color=color)
    pyplot.show()


def display_table(table: Iterable[Iterable[Any]]) -> None:
    """Shows rows of cells as an HTML table in a notebook, as plain lines elsewhere."""
    rows = [[str(cell) for cell in row] for row in table]
    try:
        from IPython.display import HTML, display
    except ImportError:
        print("\n".join("  ".join(row) for row in rows))
        return
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    display(HTML("<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"))


def display_weight_stats(model: Any) -> None:
    """Tables shape, range and spread of each weight of a `MaskRCNN` or Keras model."""
    table = [["WEIGHT NAME", "SHAPE", "MIN", "MAX", "STD"]]
    for weight in getattr(model, "keras_model", model).weights:
        values = np.asarray(weight)
        # A kernel of equal values is uninitialised or dead; biases may start at zero.
        dead = " *** dead?" if values.ndim > 1 and values.min() == values.max() else ""
        stats = [f"{v:+10.4f}" for v in (values.min(), values.max(), values.std())]
        table.append([weight.path + dead, str(values.shape), *stats])
    display_table(table)
