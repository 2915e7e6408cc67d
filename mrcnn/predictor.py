"""Images in, garments out: the detector as programs use it.

    from mrcnn.predictor import Predictor

    predictor = Predictor.load("weights")
    for result in predictor.stream(["a.jpg", "b.png"]):
        print(result.names, result.scores, result.boxes, result.areas)

H, W: height and width of an image, pixels.
"""

import hashlib
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import tensorflow as tf

from mrcnn.config import Config
from mrcnn.core.boxes import compute_overlaps
from mrcnn.core.files import PathLike
from mrcnn.core.reading import read_image
from mrcnn.inference.results import Result, without_overlaps
from mrcnn.model import MaskRCNN
from mrcnn.network import detection, layers, pretrained, weights

# Part of each fingerprint; raise it when the same settings give other results.
VERSION = 2
# IoU from which on detections in an image and in its mirror image are the same garment.
SAME_GARMENT = 0.5
# Up to this input size images are detected four at a time, which is then faster.
SMALL_INPUT = 640
LARGEST_INPUT = 8192  # pixels of a side; takes over 10 GB

# Molded image, image meta and window, see `detection.mold`.
Molded = tuple[np.ndarray, np.ndarray, np.ndarray]
# Detections and masks of one view as the network gives them.
Raw = tuple[np.ndarray, np.ndarray]
# Boxes [N, 4] int32, class_ids [N], scores [N] and masks [N, S, S] of one view.
Found = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass
class Prepared:
    """An image ready for the network; views: the molded image and, with TTA, its mirror image."""

    image: np.ndarray
    views: list[Molded]


class Predictor:
    """A detector with settings.

    `prepare` and `to_result` may run in any thread, `detect` in one at a time.

    Attributes:
        class_names: by class id, background first.
        category_ids: the training data's ids by class id, for COCO results.
        batch_size: images that the network takes at once.
        weights: the file that `load` opened, else None.

    Args:
        model: `MaskRCNN` in inference mode, with weights. Its own BATCH_SIZE is not used.
        batch_size: incomplete batches are filled up, so take 1 to detect single images. None: 4
            for inputs up to 640 pixels, else 1; and 1 on CPUs if the environment has
            TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1, with which one at a time is as fast.
        min_score: None: the model's DETECTION_MIN_CONFIDENCE. A lower one needs `load`.
        max_detections: the best of an image, after all other settings; None: the model's.
        classes: names of classes to keep, None for all.
        tta: test-time augmentation: detect in the mirror image too and average; takes twice as
            long.
        agnostic_nms: one class for each garment, see `results.without_overlaps`.
        exclusive_masks: each pixel belongs to one garment at most.
        refine: fit masks to the image's edges, see `refine.refine_mask`; needs OpenCV. None: as
            the model's MASK_REFINE says, with a warning if OpenCV is missing.
        device: "cpu", "gpu:0", ...; None leaves it to TensorFlow.

    Raises:
        ValueError: if a class is unknown, a number out of range or the device isn't there.
        ImportError: if refine is True and OpenCV is missing.
    """

    def __init__(
        self,
        model: MaskRCNN,
        batch_size: int | None = None,
        min_score: float | None = None,
        max_detections: int | None = None,
        classes: Collection[str] | None = None,
        tta: bool = False,
        agnostic_nms: bool = False,
        exclusive_masks: bool = False,
        refine: bool | None = None,
        device: str | None = None,
    ) -> None:
        config = model.config
        if config.IMAGE_CHANNEL_COUNT != 3:
            raise ValueError(
                f"this model takes images of {config.IMAGE_CHANNEL_COUNT} channels, but a Predictor "
                "reads RGB; pass arrays to MaskRCNN.detect instead"
            )
        self.weights: Path | None = None
        self.model, self.class_names = model, model.class_names
        self.category_ids = model.category_ids
        size = _usual_batch(config) if batch_size is None else batch_size
        self.batch_size = _at_least_one("batch_size", size)
        self._min_score = config.DETECTION_MIN_CONFIDENCE if min_score is None else min_score
        _check_score(self._min_score)
        most = config.DETECTION_MAX_INSTANCES if max_detections is None else max_detections
        self._most = _at_least_one("max_detections", most)
        self._classes = None if classes is None else _class_ids(classes, self.class_names)
        self._tta, self._agnostic = bool(tta), bool(agnostic_nms)
        self._exclusive = bool(exclusive_masks)
        self._device = _device(device)
        self._refine = _refines(refine, config)

    @classmethod
    def load(
        cls,
        path: PathLike = "weights",
        size: int | tuple[int, int] | None = None,
        precision: str = "auto",
        min_score: float | None = None,
        max_detections: int | None = None,
        device: str | None = None,
        sleeve_refine: bool | None = None,
        **settings: Any,
    ) -> "Predictor":
        """A predictor of a weights file. Backbone, classes and input size come from the file.

        Args:
            path: a file, a folder (its newest .h5) or "coco", see `pretrained.find_weights`.
            size: longer side of the network's input, or its height and width; multiples of 64;
                None: the file's.
            precision: "auto", "float32", "bfloat16" or "float16".
            min_score, max_detections, device, **settings: as above.
            sleeve_refine: whether the file's sleeve head may overrule classes among siblings
                (`mrcnn.siblings.head`); None: as the file says.

        Raises:
            FileNotFoundError: if there are no weights there.
            ValueError: as above, or if the size isn't a multiple of 64.
            weights.WeightsError: if the file doesn't fit, leaves layers at random, or lacks the
                sleeve head that is asked for.
        """
        file = pretrained.find_weights(path)
        config = pretrained.config_for(
            weights.inspect(file), IMAGES_PER_GPU=1, GPU_COUNT=1, COMPUTE_DTYPE=precision
        )
        changes = _sizes(config, size)
        if sleeve_refine is not None:
            changes["SLEEVE_REFINE"] = bool(sleeve_refine)
        if min_score is not None:
            changes["DETECTION_MIN_CONFIDENCE"] = _check_score(min_score)
        if settings.get("tta"):
            # A mean of two scores may reach what one of the two alone doesn't.
            low = changes.get("DETECTION_MIN_CONFIDENCE", config.DETECTION_MIN_CONFIDENCE)
            min_score, changes["DETECTION_MIN_CONFIDENCE"] = low, low / 2
        if (max_detections or 0) > config.DETECTION_MAX_INSTANCES:
            # There are no more proposals, and memory is taken for as many detections as asked for.
            most = max(config.POST_NMS_ROIS_INFERENCE, config.DETECTION_MAX_INSTANCES)
            changes["DETECTION_MAX_INSTANCES"] = min(int(max_detections or 0), most)
        with tf.device(_device(device)):
            config = type(config).from_dict({**config.to_dict(), **changes})
            model = MaskRCNN("inference", config, "logs")
            load_whole(model, file)
            model.digest = _digest(model.keras_model)  # before freezing changes the values
            layers.freeze(model.keras_model)
        predictor = cls(
            model, min_score=min_score, max_detections=max_detections, device=device, **settings
        )
        predictor.weights = file
        return predictor

    @cached_property
    def fingerprint(self) -> str:
        """A text that is the same for the same weights and settings, whatever their files."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self.model.digest or _digest(self.model.keras_model))
        if (head := self.model.sleeve_head) is not None:
            digest.update(head.kernel.tobytes() + head.bias.tobytes() + head.siblings.tobytes())
            digest.update(str(head.margin).encode())
        settings = [
            VERSION, self.model.config.to_dict(), self.class_names, self._min_score, self._most,
            sorted(self._classes or ()), self._classes is None, self._tta, self._agnostic,
            self._refine, self._exclusive, layers.resolve_dtype(self.model.config.COMPUTE_DTYPE),
        ]  # fmt: skip
        digest.update(orjson.dumps(settings, default=str, option=orjson.OPT_SERIALIZE_NUMPY))
        return digest.hexdigest()

    def __call__(self, images: Iterable[PathLike | np.ndarray]) -> list[Result]:
        """`stream` as a list, which holds all images."""
        return list(self.stream(images))

    def stream(self, images: Iterable[PathLike | np.ndarray]) -> Iterator[Result]:
        """Detects in one image after the other.

        Args:
            images: paths and arrays [H, W, 3] uint8 RGB, see `prepare`.

        Raises:
            reading.ImageError: if a file can't be read.
            ValueError: if an array is no image.
        """
        if isinstance(images, (str, os.PathLike, np.ndarray)):
            raise ValueError("got one image; give a list of images")
        batch: list[Prepared] = []
        for image in images:
            pixels = image if isinstance(image, np.ndarray) else read_image(image)
            batch.append(self.prepare(pixels))
            if len(batch) == self.batch_size:
                yield from self._results(batch)
                batch = []
        if batch:
            yield from self._results(batch)

    def _results(self, batch: list[Prepared]) -> Iterator[Result]:
        for prepared, raw in zip(batch, self.detect(batch), strict=True):
            yield self.to_result(prepared, raw)

    def prepare(self, image: np.ndarray) -> Prepared:
        """Brings an image [H, W, 3] uint8 to the network's size.

        Other numbers from 0 to 255 are taken too; in results floats are rounded.

        Raises:
            ValueError: if it isn't such an image, see `detection.as_image`.
        """
        pixels = detection.as_image(image, self.model.config.IMAGE_CHANNEL_COUNT)
        views = [pixels, pixels[:, ::-1]] if self._tta else [pixels]
        molded = [detection.mold([view], self.model.config) for view in views]
        if pixels.dtype != np.uint8:
            pixels = np.rint(pixels).astype(np.uint8)
        return Prepared(pixels, [(m[0], meta[0], window[0]) for m, meta, window in molded])

    def detect(self, batch: list[Prepared]) -> list[list[Raw]]:
        """Runs the network on at most `batch_size` images: of each what `to_result` takes."""
        raws: list[list[Raw]] = [[] for _ in batch]
        for view in range(len(batch[0].views)):
            molded = [p.views[view] for p in batch]
            for rows in _same_shapes(molded):
                for row, raw in zip(rows, self._run([molded[r] for r in rows]), strict=True):
                    raws[row].append(raw)
        return raws

    def _run(self, molded: list[Molded]) -> list[Raw]:
        """Detections and masks of images of one molded shape."""
        count = len(molded)
        # A batch of another size would be traced anew, which takes longer than filling it up.
        molded = molded + molded[-1:] * (self.batch_size - count)
        with tf.device(self._device):
            detections, masks = self.model._run(*(np.stack([m[i] for m in molded]) for i in (0, 1)))
        return [(detections[i], masks[i]) for i in range(count)]

    def to_result(self, prepared: Prepared, raw: list[Raw]) -> Result:
        """The result of an image, from its entry of what `detect` returned.

        Detections whose mask has no pixel are left out.
        """
        shape, found = prepared.image.shape, []
        for (molded, _, window), (rows, raw_masks) in zip(prepared.views, raw, strict=True):
            boxes, ids, scores, used = detection.unmold_boxes(rows, shape, molded.shape, window)
            found.append((boxes, ids, scores, np.asarray(raw_masks[used], np.float32)))
        boxes, ids, scores, masks = (
            merge_views(found[0], found[1], shape[1]) if self._tta else found[0]
        )
        names = self.class_names
        result = Result(prepared.image, boxes, ids, scores, masks, names, refined=self._refine)
        keep = result.scores >= self._min_score
        if self._tta:  # the rounded mean of two views' boxes may have no area
            keep &= (result.boxes[:, 2:] > result.boxes[:, :2]).all(axis=1)
        if self._classes is not None:
            keep &= np.isin(result.class_ids, list(self._classes))
        result = result.select(keep)
        result = result.select(result.have_pixels)
        if self._agnostic:
            result = without_overlaps(result)
        result = replace(result.select(slice(self._most)), exclusive=self._exclusive)
        return result.select(result.have_pixels) if self._exclusive else result


def _digest(model: Any) -> bytes:
    """16 bytes that are the same for the same weights of a Keras model."""
    digest = hashlib.blake2b(digest_size=16)
    for variable in model.variables:
        digest.update(np.asarray(variable).tobytes())
    return digest.digest()


def _usual_batch(config: Config) -> int:
    """The batch size if none is given."""
    is_held = os.environ.get("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS") in ("1", "true")
    if is_held and not tf.config.list_physical_devices("GPU"):
        return 1
    return 4 if max(config.IMAGE_SHAPE[:2]) <= SMALL_INPUT else 1


def load_whole(model: MaskRCNN, path: PathLike) -> None:
    """Loads a weights file that must fill every layer.

    Raises:
        weights.WeightsError: if some layer would be left at random.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about random layers: they raise below
        model.load_weights(path, by_name=True)
    if model.random_layers:
        raise weights.WeightsError(
            f"{path} has no weights for these layers, so results would be random: "
            f"{', '.join(model.random_layers)}\nGive a file of the whole model."
        )


def merge_views(plain: Found, mirrored: Found, width: int) -> Found:
    """Averages what was found in an image of `width` pixels and in its mirror image.

    A garment that only one view shows keeps half its score. Best score first.
    """
    boxes, ids, scores, masks = mirrored
    boxes = np.stack([boxes[:, 0], width - boxes[:, 3], boxes[:, 2], width - boxes[:, 1]], axis=1)
    other = list(zip(boxes, ids, scores, masks[..., ::-1], strict=True))
    iou = compute_overlaps(plain[0], boxes)
    rows: list[tuple[np.ndarray, ...]] = []
    left = set(range(len(other)))
    for i, (box, class_id, score, mask) in enumerate(zip(*plain, strict=True)):
        fits = [j for j in left if other[j][1] == class_id and iou[i, j] >= SAME_GARMENT]
        if not fits:
            rows.append((box, class_id, score / 2, mask))
            continue
        j = max(fits, key=lambda j: iou[i, j])
        left.remove(j)
        share = score / (score + other[j][2])
        rows.append(
            (
                np.rint(box * share + other[j][0] * (1 - share)).astype(np.int32),
                class_id,
                (score + other[j][2]) / 2,
                mask * share + other[j][3] * (1 - share),
            )
        )
    rows += [(other[j][0], other[j][1], other[j][2] / 2, other[j][3]) for j in sorted(left)]
    if not rows:
        return plain
    rows.sort(key=lambda row: -row[2])
    columns = zip(zip(*rows, strict=True), plain, strict=True)
    boxes, ids, scores, masks = (np.stack(c).astype(p.dtype) for c, p in columns)
    return boxes, ids, scores, masks


def _same_shapes(molded: list[Molded]) -> Iterable[list[int]]:
    """Row numbers grouped by the molded images' shapes (they differ with pad64 only)."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, (image, _, _) in enumerate(molded):
        groups.setdefault(image.shape, []).append(row)
    return groups.values()


def _sizes(config: Config, size: int | tuple[int, int] | None) -> dict[str, Any]:
    """The changes of a configuration that give an input of `size` pixels."""
    if size is None:
        return {}
    for side in np.broadcast_to(size, 2).tolist():
        if side < 64 or side % 64 or side > LARGEST_INPUT:
            near = min(max(64, round(side / 64) * 64), LARGEST_INPUT)
            raise ValueError(
                f"size is {size}; give a multiple of 64 up to {LARGEST_INPUT}, such as {near}"
            )
    smaller = round(config.IMAGE_MIN_DIM * np.min(size) / np.min(config.IMAGE_MAX_DIM))
    return {"IMAGE_MIN_DIM": int(smaller), "IMAGE_MAX_DIM": size}


def _check_score(score: float) -> float:
    if not 0 <= score <= 1:
        raise ValueError(f"min_score is {score}; give a number from 0 to 1")
    return float(score)


def _at_least_one(name: str, value: int) -> int:
    if int(value) < 1:
        raise ValueError(f"{name} is {value}; give 1 or more")
    return int(value)


def _class_ids(wanted: Collection[str], names: Sequence[str]) -> set[int]:
    unknown = [n for n in wanted if n not in names[1:]]
    if unknown or not wanted:
        raise ValueError(
            f"unknown classes: {', '.join(unknown) or 'none given'}; this model knows "
            f"{', '.join(names[1:])}"
        )
    return {names.index(n) for n in wanted}


def _refines(asked: bool | None, config: Config) -> bool:
    """Whether masks are fitted to the image; a model's wish is dropped where OpenCV is missing."""
    from mrcnn.inference.refine import load_opencv

    wanted = getattr(config, "MASK_REFINE", False) if asked is None else asked
    if not wanted:
        return False
    try:
        load_opencv()
    except ImportError as error:
        if asked:
            raise
        warnings.warn(f"masks stay coarser than this model asks for: {error}", stacklevel=3)
        return False
    return True


def _device(device: str | None) -> str | None:
    """TensorFlow's name of a device; None if TensorFlow chooses."""
    if device is None:
        return None
    kind, _, number = str(device).lower().partition(":")
    found = tf.config.list_physical_devices(kind.upper()) if kind in ("cpu", "gpu") else []
    if not (number or "0").isdigit() or int(number or 0) >= len(found):
        there = [
            d.name.removeprefix("/physical_device:").lower()
            for d in tf.config.list_physical_devices()
            if d.device_type in ("CPU", "GPU")
        ]
        raise ValueError(f"there is no device {device!r}; this machine has {', '.join(there)}")
    return f"/{kind.upper()}:{number or 0}"
