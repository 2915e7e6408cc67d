"""Ground truth beside detections: the images of an evaluation's report."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mrcnn.coco.ground_truth import Detections, GroundTruth
from mrcnn.coco.masks import decode
from mrcnn.core.classes import BACKGROUND
from mrcnn.core.image import ImageError, read_image
from mrcnn.core.text import cut
from mrcnn.evaluation.metrics import ConfusedPair, RatedImage
from mrcnn.evaluation.scoring import EvaluationResult
from mrcnn.render.drawing import draw_instances
from mrcnn.render.html import image_uri

IMAGE_SIDE = 480  # longer side of a drawn image, pixels
EXAMPLE_SIDE = 320
MARGIN = 0.15  # around the garment of an example, as a share of its size
EXAMPLES = 4  # of each confused pair
EXAMPLE_PAIRS = 8

LONGEST = 40  # characters of a class name

Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class ImagePair:
    """Annotated and detected instances of an image, or of a part of it, as data: addresses."""

    file_name: str
    annotated: str
    detected: str
    text: str
    quality: float | None = None


@dataclass(frozen=True)
class ConfusionExamples:
    """Examples of two classes taken for each other; `anchor` is their id on the page."""

    a: str
    b: str
    count: int
    anchor: str
    examples: list[ImagePair]


class ReportImages:
    """Draws images of an evaluation.

    Attributes:
        missing: number of images that could not be read, and were drawn on grey.
    """

    def __init__(self, evaluation: EvaluationResult, folder: Path | None) -> None:
        """`folder`: that the file names are relative to; None draws on grey."""
        self.truth, self.detections = evaluation.truth, evaluation.detections
        self.pairs, self.has_masks = evaluation.pairs, evaluation.kind == "segm"
        self.folder, self.missing = folder, 0
        self._names = (BACKGROUND, *(cut(name, LONGEST) for name in self.truth.names))

    def rated(self, rated: list[RatedImage]) -> list[ImagePair]:
        """The worst or best images as a whole."""
        pairs = self.pairs
        kept = np.union1d(pairs.detections, pairs.false_positives).astype(int)
        drawn = []
        for entry in rated:
            i = int(np.searchsorted(self.truth.image_ids, entry.image_id))
            instances = np.flatnonzero((self.truth.image == i) & ~self.truth.crowd)
            detected = kept[self.detections.image[kept] == i]
            image = self._read(i)
            annotated, found = self._draw_both(
                image, (0, 0, *image.shape[:2]), IMAGE_SIDE, instances, detected
            )
            text = self._summary(i)
            drawn.append(ImagePair(entry.file_name, annotated, found, text, entry.quality))
        return drawn

    def confused(self, confused: list[ConfusedPair]) -> list[ConfusionExamples]:
        """The most certain mistakes of each confused pair of classes, cut out."""
        names, pairs = self.truth.names, self.pairs
        annotated = self.truth.classes[pairs.instances]
        detected = self.detections.classes[pairs.detections]
        drawn = []
        for row in [row for row in confused if row.count][:EXAMPLE_PAIRS]:
            a, b = names.index(row.a), names.index(row.b)
            mistaken = ((annotated == a) & (detected == b)) | ((annotated == b) & (detected == a))
            mistakes = np.flatnonzero(mistaken)
            scores = self.detections.scores[pairs.detections[mistakes]]
            chosen = mistakes[np.argsort(-scores, kind="stable")[:EXAMPLES]].tolist()
            examples = [self._example(p) for p in chosen]
            drawn.append(ConfusionExamples(row.a, row.b, row.count, f"pair-{a}-{b}", examples))
        return drawn

    def _example(self, p: int) -> ImagePair:
        truth, detections = self.truth, self.detections
        g, d = self.pairs.instances[p], self.pairs.detections[p]
        i = int(truth.image[g])
        image = self._read(i)
        window = _window(np.stack([truth.boxes[g], detections.boxes[d]]), image.shape)
        annotated, found = self._draw_both(
            image, window, EXAMPLE_SIDE, np.array([g]), np.array([d])
        )
        classes = self._names[1 + truth.classes[g]], self._names[1 + detections.classes[d]]
        text = f"{classes[0]} detected as {classes[1]} ({detections.scores[d]:.2f})"
        name = truth.images[i].file_name or str(truth.image_ids[i])
        return ImagePair(name, annotated, found, text)

    def _read(self, i: int) -> np.ndarray:
        """Image [H, W, 3] uint8 at a position, of the size that the annotations are for."""
        height, width = self.truth.size(i)
        name = self.truth.images[i].file_name
        try:
            if self.folder is not None and name:
                image: np.ndarray = read_image(self.folder / name)
                if image.shape[:2] == (height, width):
                    return image
        except (ImageError, OSError):
            pass
        self.missing += 1
        return np.full((height, width, 3), 128, np.uint8)

    def _draw_both(
        self, image: np.ndarray, window: Window, side: int, instances: np.ndarray, found: np.ndarray
    ) -> tuple[str, str]:
        """A part of an image with instances, and with detections drawn in.

        Args:
            image: [H, W, 3] uint8.
            window: (y1, x1, y2, x2) of the part, pixels.
            side: longer side to bring it to, pixels.
            instances, found: int, positions in the ground truth and in the detections.
        """
        scores = self.detections.scores[found]
        return (
            self._draw(image, window, side, self.truth, instances, None),
            self._draw(image, window, side, self.detections, found, scores),
        )

    def _draw(
        self,
        image: np.ndarray,
        window: Window,
        side: int,
        source: GroundTruth | Detections,
        rows: np.ndarray,
        scores: np.ndarray | None,
    ) -> str:
        y1, x1, y2, x2 = window
        scale = side / max(y2 - y1, x2 - x1)
        size = (max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale)))
        canvas = np.array(Image.fromarray(image[y1:y2, x1:x2]).resize(size, Image.Resampling.BOX))
        x, y, width, height = source.boxes[rows].T
        corners = np.stack([y, x, y + height, x + width], axis=1)
        boxes = (corners - [y1, x1, y1, x1]) * scale
        masks = None
        if self.has_masks and source.rles is not None and len(rows):
            # One after the other: a mask has as many bytes as its image has pixels.
            parts = [
                Image.fromarray(decode(source.rles[r])[y1:y2, x1:x2]).resize(size, 0)
                for r in rows.tolist()
            ]
            masks = np.stack([np.array(m, bool) for m in parts], axis=2)
        drawn = draw_instances(canvas, boxes, masks, source.classes[rows] + 1, self._names, scores)
        uri: str = image_uri(drawn, quality=80)
        return uri

    def _summary(self, i: int) -> str:
        """'1 of 3 correct; skirt detected as trousers; missed: vest; false positives: trousers'."""
        truth, detections, pairs = self.truth, self.detections, self.pairs
        names = self._names[1:]
        here = np.flatnonzero(truth.image[pairs.instances] == i)
        annotated = truth.classes[pairs.instances[here]]
        detected = detections.classes[pairs.detections[here]]
        missed = pairs.missed[truth.image[pairs.missed] == i]
        false = pairs.false_positives[detections.image[pairs.false_positives] == i]
        both = zip(annotated, detected, strict=True)
        parts = [f"{int((annotated == detected).sum())} of {len(here) + len(missed)} correct"]
        parts += [f"{names[a]} detected as {names[b]}" for a, b in both if a != b]
        for word, classes in (
            ("missed", truth.classes[missed]),
            ("false positives", detections.classes[false]),
        ):
            if len(classes):
                parts.append(f"{word}: {', '.join(names[k] for k in classes)}")
        return "; ".join(parts)


def _window(boxes: np.ndarray, shape: tuple[int, ...]) -> Window:
    """(y1, x1, y2, x2) of pixels around both boxes [x, y, w, h], with a margin."""
    low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    margin = MARGIN * (high - low)
    x1, y1 = np.floor(np.maximum(low - margin, 0)).astype(int).tolist()
    x2, y2 = np.ceil(np.minimum(high + margin, [shape[1], shape[0]])).astype(int).tolist()
    return y1, x1, max(y2, y1 + 1), max(x2, x1 + 1)
