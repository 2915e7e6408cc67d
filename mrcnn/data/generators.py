"""matterport's generators of training data, for code that calls them.

`MaskRCNN.train()` is fed by `mrcnn.data.loader.BatchLoader`.

Letters in shapes: B batch, H, W molded image, A anchors, M numbers of image meta, N instances,
G MAX_GT_INSTANCES, R RPN_TRAIN_ANCHORS_PER_IMAGE; h, w stored masks: MINI_MASK_SHAPE with
USE_MINI_MASK, else H, W. Boxes are (y1, x1, y2, x2) in pixels of the molded image, y2/x2
exclusive.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mrcnn.config import Config
from mrcnn.data.dataset import Dataset
from mrcnn.data.samples import Sampler

Batch = tuple[list[np.ndarray], list[np.ndarray]]


def _stack(arrays_of_images: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.stack(arrays) for arrays in zip(*arrays_of_images, strict=True)]


def _batches(sampler: Sampler, image_ids: Iterable[int], batch_size: int) -> Iterator[Batch]:
    """Yields (inputs, outputs) from an endless series of ids, passing over empty images."""
    batch: list[Batch] = []
    passed = 0
    for image_id in image_ids:
        sample = sampler.load(image_id)
        passed = 0 if sample else passed + 1
        if passed > sampler.dataset.num_images:
            raise ValueError("no image of the dataset has an object; check load_mask()")
        if sample:
            batch.append(sample)
        if len(batch) == batch_size:
            inputs, outputs = zip(*batch, strict=True)
            yield _stack(inputs), _stack(outputs)
            batch = []


def _endless(image_ids: Any, shuffle: bool) -> Iterator[int]:
    image_ids = np.array(image_ids)
    while True:
        if shuffle:
            np.random.shuffle(image_ids)
        yield from image_ids


def data_generator(
    dataset: Dataset,
    config: Config,
    shuffle: bool = True,
    augment: bool = False,
    augmentation: Any = None,
    random_rois: int = 0,
    batch_size: int = 1,
    detection_targets: bool = False,
    no_augmentation_sources: Sequence[str] | None = None,
) -> Iterator[Batch]:
    """matterport's endless generator of batches; images without objects are passed over.

    Args:
        shuffle: new order in each pass; from NumPy's global state, as all choices here.
        augment: deprecated, see `load_image_gt`.
        augmentation: imgaug augmenter or None.
        random_rois: so many random RoIs an image are added to the inputs.
        batch_size: B.
        detection_targets: with `random_rois`, add the targets of the heads too.
        no_augmentation_sources: sources whose images are not augmented.

    Yields:
        inputs: images float32 [B, H, W, 3] molded, image_meta float64 [B, M],
            rpn_match int32 [B, A, 1], rpn_bbox float64 [B, R, 4], gt_class_ids int32 [B, G],
            gt_boxes int32 [B, G, 4], gt_masks bool [B, h, w, G], then with random_rois
            rpn_rois int32 [B, random_rois, 4], then with detection_targets the chosen rois
            int32 [B, T, 4] (see `mrcnn.data.targets.build_detection_targets`, also for outputs).
        outputs: empty unless detection_targets; then class ids int32 [B, T, 1],
            box deltas [B, T, NUM_CLASSES, 4], masks [B, T, *MASK_SHAPE, NUM_CLASSES].

    Raises:
        RuntimeError: naming the image that cannot be loaded.
        ValueError: if dataset and configuration do not fit each other.
    """
    sampler = Sampler(
        dataset,
        config,
        augmentation,
        no_augmentation_sources,
        augment,
        random_rois,
        detection_targets,
    )
    yield from _batches(sampler, _endless(dataset.image_ids, shuffle), batch_size)


class DataGenerator:
    """`data_generator`'s batches by index: a sequence that covers each image once.

    Arguments and batches are those of `data_generator`; batch_size None takes
    config.BATCH_SIZE. `generator[i]` holds images i*B ... i*B+B-1 of the current order; where
    one has no objects, or at the end of the order, the following ones (cyclically) fill up.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        shuffle: bool = True,
        augmentation: Any = None,
        random_rois: int = 0,
        batch_size: int | None = None,
        detection_targets: bool = False,
        no_augmentation_sources: Sequence[str] | None = None,
    ) -> None:
        self._sampler = Sampler(
            dataset,
            config,
            augmentation,
            no_augmentation_sources,
            random_rois=random_rois,
            detection_targets=detection_targets,
        )
        self.batch_size = batch_size or config.BATCH_SIZE
        self.shuffle = shuffle
        self.image_ids = np.array(dataset.image_ids)
        self.on_epoch_end()

    def __len__(self) -> int:
        return -(-len(self.image_ids) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        ids = np.roll(self.image_ids, -index * self.batch_size)
        return next(_batches(self._sampler, itertools.cycle(ids), self.batch_size))

    def on_epoch_end(self) -> None:
        """Draws a new order, if shuffling."""
        if self.shuffle:
            np.random.shuffle(self.image_ids)
