"""Training the sleeve head: features of a frozen detector's detections, then a linear classifier.

Letters in shapes: C classes, background included, F features of a garment, N samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from mrcnn.core.boxes import compute_overlaps, norm_boxes
from mrcnn.core.files import replacing
from mrcnn.data.dataset import Dataset
from mrcnn.data.policy import Policy
from mrcnn.data.scenes import load_scene
from mrcnn.network.detection import DetectionGraph
from mrcnn.siblings import sleeves
from mrcnn.siblings.head import SiblingHead, overrule, sibling_table

# IoU from which a detection is of a garment.
SAME_GARMENT = 0.5
# The margin is chosen among these.
MARGINS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
FOLDS = 5
STILL = Policy(flip=0, move=0, colour=0, blur=0, occlusion=0)


@dataclass
class Samples:
    """Detections of annotated garments whose class is a sibling of the detected one.

    Attributes:
        features: [N, F] float32.
        truth, found: [N] int32, class ids as annotated and as detected.
        images: [N] int64; folds of a cross-validation share none.
        best: [N] bool, whether no other detection of the garment has a better score.
    """

    features: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    images: np.ndarray
    best: np.ndarray

    def __len__(self) -> int:
        return len(self.truth)

    def select(self, rows: np.ndarray) -> "Samples":
        """The samples of these rows, int or bool array."""
        return Samples(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def joined(parts: Sequence["Samples"]) -> "Samples":
        """All samples of several `Samples`; the numbers of their images must differ."""
        names = [field.name for field in fields(Samples)]
        return Samples(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def save(self, path: str | Path) -> None:
        """Writes an .npz file."""
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{field.name: getattr(self, field.name) for field in fields(self)})

    @staticmethod
    def load(path: str | Path) -> "Samples":
        """Reads a file that `save` wrote."""
        with np.load(path) as file:
            return Samples(*(file[field.name] for field in fields(Samples)))


def collect(
    model: Any,
    dataset: Dataset,
    augmentation: Policy | None = None,
    passes: int = 1,
    seed: int = 0,
) -> Samples:
    """Runs the detector on augmented training images.

    Args:
        model: `MaskRCNN` in inference mode; its DETECTION_MIN_CONFIDENCE is best low, as weak
            detections are examples too.
        dataset: prepared, of the model's classes.
        augmentation: None leaves the images as they are.
        passes: how often each image is augmented.
        seed: of the augmentation.
    """
    table = sibling_table(model.class_names)
    augmentation = augmentation or STILL
    graph = DetectionGraph(model.keras_model, sleeves.describe)
    size = model.config.BATCH_SIZE
    visits = [(n, int(i)) for n in range(passes) for i in dataset.image_ids]
    parts = []
    for start in tqdm(range(0, len(visits), size), "detections", unit="batch"):
        chosen = visits[start : start + size]
        scenes: list[Any] = [
            load_scene(
                dataset, model.config, i, augmentation, rng=np.random.default_rng((seed, n, i))
            )
            for n, i in chosen
        ]
        for (_, image_id), scene, (found, features) in zip(
            chosen, scenes, _detect(model, graph, scenes), strict=True
        ):
            boxes = norm_boxes(scene[3], scene[0].shape[:2]).astype(np.float32)
            parts.append(pair_with_garments(found, features, scene[2], boxes, table, image_id))
    return Samples.joined(parts)


def _detect(
    model: Any, graph: DetectionGraph, scenes: list[Any]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(detections [D, 6], features [n, F]) of each scene of a batch."""
    count, size = len(scenes), model.config.BATCH_SIZE
    filled = scenes + scenes[-1:] * (size - count)  # another batch size means another trace
    mean = np.asarray(model.config.MEAN_PIXEL, np.float32)
    molded = np.stack([np.subtract(scene[0], mean, dtype=np.float32) for scene in filled])
    metas = np.stack([scene[1] for scene in filled])
    detections, _, features = graph(molded, metas, model.get_anchors(molded.shape[1:]))
    return list(zip(detections, features, strict=True))[:count]


def pair_with_garments(
    detections: np.ndarray,
    features: np.ndarray,
    class_ids: np.ndarray,
    boxes: np.ndarray,
    table: np.ndarray,
    image_id: int,
) -> Samples:
    """Pairs each detection of an image with the garment of a sibling class it overlaps most.

    Args:
        detections: [D, (y1, x1, y2, x2, class id, score)] normalised, best first, zero-padded.
        features: [at least the detections, F].
        class_ids, boxes: [G] int and [G, (y1, x1, y2, x2)] normalised: the annotated garments.
        table: [C, C] bool, as of `sibling_table`.
        image_id: internal id of the image.
    """
    count = int(np.count_nonzero(detections[:, 4]))
    found = detections[:count, 4].astype(np.int32)
    class_ids = np.asarray(class_ids, np.int32)
    overlaps = compute_overlaps(detections[:count, :4], boxes)
    # Crowds have negative ids and are not single garments.
    fits = table[found][:, np.maximum(class_ids, 0)] & (class_ids > 0)
    overlaps = np.where(fits, overlaps, 0.0)
    garment = overlaps.argmax(axis=1) if len(class_ids) else np.zeros(count, int)
    rows = np.flatnonzero(overlaps.max(axis=1, initial=0.0) >= SAME_GARMENT)
    garment = garment[rows]
    best = np.zeros(len(rows), bool)
    best[np.unique(garment, return_index=True)[1]] = True  # the first is the best
    return Samples(
        np.asarray(features, np.float32)[rows],
        class_ids[garment],
        found[rows],
        np.full(len(rows), image_id, np.int64),
        best,
    )


def fit(
    samples: Samples, table: np.ndarray, decay: float, steps: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression within each group of siblings: kernel [F, C], bias [C].

    The problem is convex and small, so each step sees all samples and nothing is random. decay is
    the weight of the kernel's sum of squares in the loss, for features of unit variance.
    """
    mean, deviation = samples.features.mean(axis=0), samples.features.std(axis=0) + 1e-3
    scaled = tf.constant((samples.features - mean) / deviation)
    others = tf.constant(~table[samples.truth])
    dense = keras.layers.Dense(len(table), kernel_initializer="zeros", dtype="float32")
    dense.build(scaled.shape)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, steps))
    optimizer.build(dense.trainable_variables)

    @tf.function(autograph=False)
    def step() -> None:
        with tf.GradientTape() as tape:
            logits = tf.where(others, -1e9, dense(scaled))
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(samples.truth, logits)
            loss = tf.reduce_mean(losses) + decay * tf.reduce_sum(dense.kernel**2)
        gradients = tape.gradient(loss, dense.trainable_variables)
        optimizer.apply(gradients, dense.trainable_variables)

    for _ in range(steps):
        step()
    kernel = np.asarray(dense.kernel) / deviation[:, None]
    return kernel, np.asarray(dense.bias) - mean @ kernel


def cross_validate(samples: Samples, table: np.ndarray, decay: float, seed: int = 0) -> np.ndarray:
    """Probabilities [N, C] of each sample by a head that has not seen its image."""
    images = np.unique(samples.images)
    fold = np.random.default_rng(seed).permutation(len(images)) % FOLDS
    fold_of = fold[np.searchsorted(images, samples.images)]
    probabilities = np.zeros((len(samples), len(table)), np.float32)
    for number in range(FOLDS):
        held = fold_of == number
        if held.any() and not held.all():
            kernel, bias = fit(samples.select(~held), table, decay)
            head = SiblingHead(kernel, bias, table, 1.0)
            rest = samples.select(held)
            probabilities[held] = head.probabilities(rest.features, rest.found)
    return probabilities


def choose_margin(
    probabilities: np.ndarray,
    truth: np.ndarray,
    found: np.ndarray,
    margins: Sequence[float] = MARGINS,
) -> tuple[float, list[tuple[float, int, int]]]:
    """The margin that leaves the fewest wrong classes, the largest of several; and of each margin
    a row (margin, corrected classes, classes made wrong)."""
    rows = []
    for margin in margins:
        decided = overrule(probabilities, found, margin)
        corrected = int(np.sum((decided == truth) & (found != truth)))
        broken = int(np.sum((decided != truth) & (found == truth)))
        rows.append((margin, corrected, broken))
    best = max(rows, key=lambda row: (row[1] - row[2], row[0]))
    return best[0], rows
