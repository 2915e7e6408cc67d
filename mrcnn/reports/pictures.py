"""GroundTruth beside prediction: the images of an evaluation's report."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mrcnn.coco.masks import decode
from mrcnn.core.classes import BACKGROUND
from mrcnn.core.image import ImageError, read_image
from mrcnn.evaluation.metrics import Evaluation
from mrcnn.render.drawing import draw_instances
from mrcnn.render.html import image_uri

PICTURE_SIDE = 480  # longer side of a drawn image, pixels
EXAMPLE_SIDE = 320
MARGIN = 0.15  # around the garment of an example, as a share of its size
EXAMPLES = 4  # of each confused pair
EXAMPLE_PAIRS = 8


@dataclass
class Artist:
    """Draws instances and detections of an evaluation.

    Attributes:
        evaluation: `metrics.Evaluation`.
        folder: Path that the file names are relative to; None draws on grey.
        missing: number of images that could not be read, and were drawn on grey.
    """

    evaluation: Evaluation
    folder: Path | None
    missing: int = 0

    def __post_init__(self):
        self.truth, self.detections = self.evaluation.truth, self.evaluation.detections
        self.names = (BACKGROUND, *self.truth.names)

    def read(self, i):
        """Image [H, W, 3] uint8 at a position, of the size that the annotations are for."""
        height, width = self.truth.size(i)
        try:
            if self.folder is not None:
                image = read_image(self.folder / self.truth.images[i].file_name)
                if image.shape[:2] == (height, width):
                    return image
        except (ImageError, OSError):
            pass
        self.missing += 1
        return np.full((height, width, 3), 128, np.uint8)

    def draw(self, image, window, side, source, rows):
        """A part of an image with instances drawn in, as a data: address.

        Args:
            image: [H, W, 3] uint8.
            window: (y1, x1, y2, x2) of the part, pixels.
            side: longer side to bring it to, pixels.
            source: the `GroundTruth` or `Detections` that `rows` are positions in.
        """
        y1, x1, y2, x2 = window
        scale = side / max(y2 - y1, x2 - x1)
        size = (max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale)))
        canvas = np.array(Image.fromarray(image[y1:y2, x1:x2]).resize(size, Image.Resampling.BOX))
        xywh = source.boxes[rows]
        corners = np.stack(
            [xywh[:, 1], xywh[:, 0], xywh[:, 1] + xywh[:, 3], xywh[:, 0] + xywh[:, 2]], axis=1
        )
        boxes = (corners - [y1, x1, y1, x1]) * scale
        masks = None
        if source.rles is not None and len(rows) and self.evaluation.kind == "segm":
            whole = [decode(source.rles[r])[y1:y2, x1:x2] for r in rows]
            parts = [Image.fromarray(m).resize(size, 0) for m in whole]
            masks = np.stack([np.array(m, bool) for m in parts], axis=2)
        scores = None if source is self.truth else source.scores[rows]
        drawn = draw_instances(canvas, boxes, masks, source.classes[rows] + 1, self.names, scores)
        return image_uri(drawn, quality=80)


def draw_pictures(artist, entries):
    """Whole images, truth and prediction.

    Args:
        artist: `Artist`.
        entries: of metrics.json's "pictures": worst or best.

    Returns:
        list of {file_name, quality, truth, found: data: addresses, caption}.
    """
    truth, detections, pairs = artist.truth, artist.detections, artist.evaluation.pairs
    kept = np.union1d(pairs.found, pairs.invented).astype(int)
    drawn = []
    for entry in entries:
        i = int(np.searchsorted(truth.image_ids, entry["image_id"]))
        image = artist.read(i)
        window = (0, 0, *image.shape[:2])
        mine = np.flatnonzero((truth.image == i) & ~truth.crowd)
        found = kept[detections.image[kept] == i]
        drawn.append(
            {
                **entry,
                "truth": artist.draw(image, window, PICTURE_SIDE, truth, mine),
                "found": artist.draw(image, window, PICTURE_SIDE, detections, found),
                "caption": _caption(truth, detections, pairs, i),
            }
        )
    return drawn


def _caption(truth, detections, pairs, i):
    """'1 of 3 right; skirt as trousers; missed: vest; invented: trousers, trousers'."""
    names = truth.names
    here = np.flatnonzero(truth.image[pairs.truth] == i)
    true, said = truth.classes[pairs.truth[here]], detections.classes[pairs.found[here]]
    missed = pairs.missed[truth.image[pairs.missed] == i]
    invented = pairs.invented[detections.image[pairs.invented] == i]
    parts = [f"{int((true == said).sum())} of {len(here) + len(missed)} right"]
    parts += [f"{names[a]} as {names[b]}" for a, b in zip(true, said, strict=True) if a != b]
    for word, classes in (
        ("missed", truth.classes[missed]),
        ("invented", detections.classes[invented]),
    ):
        if len(classes):
            parts.append(f"{word}: {', '.join(names[k] for k in classes)}")
    return "; ".join(parts)


def draw_examples(artist, confused):
    """For each confused pair of classes the surest mistakes, cut out.

    Args:
        artist: `Artist`.
        confused: list of `diagnosis.confused_pairs`.

    Returns:
        list of {a, b, count, anchor, examples: [{file_name, text, truth, found}]} of the pairs that
        have mistakes.
    """
    evaluation, truth = artist.evaluation, artist.truth
    pairs, detections = evaluation.pairs, artist.detections
    chosen = [row for row in confused if row["count"]][:EXAMPLE_PAIRS]
    drawn = []
    for row in chosen:
        a, b = (truth.names.index(row[key]) for key in "ab")
        is_class, said = truth.classes[pairs.truth], detections.classes[pairs.found]
        mistakes = np.flatnonzero(((is_class == a) & (said == b)) | ((is_class == b) & (said == a)))
        surest = np.argsort(-detections.scores[pairs.found[mistakes]], kind="stable")
        examples = [_example(artist, p) for p in mistakes[surest[:EXAMPLES]]]
        kept = {key: row[key] for key in ("a", "b", "count")}
        drawn.append({**kept, "anchor": f"pair-{a}-{b}", "examples": examples})
    return drawn


def _example(artist, p):
    truth, detections, pairs = artist.truth, artist.detections, artist.evaluation.pairs
    g, d = pairs.truth[p], pairs.found[p]
    i = int(truth.image[g])
    image = artist.read(i)
    window = _window(np.stack([truth.boxes[g], detections.boxes[d]]), image.shape)
    score = detections.scores[d]
    return {
        "file_name": truth.images[i].file_name or str(truth.image_ids[i]),
        "text": f"{truth.names[truth.classes[g]]}, taken for "
        f"{truth.names[detections.classes[d]]} ({score:.2f})",
        "truth": artist.draw(image, window, EXAMPLE_SIDE, truth, np.array([g])),
        "found": artist.draw(image, window, EXAMPLE_SIDE, detections, np.array([d])),
    }


def _window(boxes, shape):
    """(y1, x1, y2, x2) of pixels around both boxes [x, y, w, h], with a margin."""
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    margin = MARGIN * (high - low)
    x1, y1 = np.floor(np.maximum(low - margin, 0)).astype(int).tolist()
    x2, y2 = np.ceil(np.minimum(high + margin, [shape[1], shape[0]])).astype(int).tolist()
    return y1, x1, max(y2, y1 + 1), max(x2, x1 + 1)
