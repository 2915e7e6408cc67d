"""Batches for training, loaded ahead in threads.

Letters in shapes: B batch, b this shard's part of it, H, W molded image, A anchors, M numbers of
image meta, G MAX_GT_INSTANCES, R RPN_TRAIN_ANCHORS_PER_IMAGE; h, w stored masks: MINI_MASK_SHAPE
with USE_MINI_MASK, else H, W. Boxes are (y1, x1, y2, x2) in pixels of the molded image, y2/x2
exclusive.
"""

import collections
import contextlib
import itertools
import math
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mrcnn.config import Config
from mrcnn.data.augmentation import check_augmentation
from mrcnn.data.dataset import Dataset
from mrcnn.data.samples import Sampler
from mrcnn.data.sampling import checked_factors, epoch_order


class _Job(NamedTuple):
    """One image to load: its place in the epoch and where the molded image goes."""

    epoch: int
    position: int
    image_id: int
    out: np.ndarray


class BatchLoader:
    """Loads batches in threads, each epoch the same whatever the number of threads.

    Images without objects are kept, as examples of background. A data set with
    `load_outlines`, such as `CocoDataset`, is loaded without a full-size mask anywhere.

    Args:
        batch_size: B, over all shards.
        shuffle: False takes the images in the order of their ids.
        augmentation: imgaug augmenter, `mrcnn.data.policy.Policy` or None.
        no_augmentation_sources: sources whose images are not augmented.
        seed: >= 0. Order and augmentation follow from it and the epoch.
        workers: threads; with 0 the caller's thread loads.
        prefetch: batches to load ahead; each takes the memory of a batch.
        repeat_factors: float [num_images] from `mrcnn.data.sampling.image_weights`, or None for
            one visit of each image in a pass.
        shard: (index, count): of each batch only the images index * B / count ... are loaded
            and given, so that `count` processes share the work and together see the batch that
            a single one would.

    Attributes:
        images_per_step: b, this shard's images in a batch.
        wait_seconds: time that consumers have waited for images so far.

    Raises:
        ValueError: if dataset and configuration do not fit each other, or the shard the batch,
            or if `augmentation` may move pixels without moving masks.
        TypeError: if `augmentation` is something else.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        *,
        batch_size: int,
        shuffle: bool,
        augmentation: Any = None,
        no_augmentation_sources: Sequence[str] | None = None,
        seed: int = 0,
        workers: int = 2,
        prefetch: int = 2,
        repeat_factors: ArrayLike | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        check_augmentation(augmentation)
        self._sampler = Sampler(dataset, config, augmentation, no_augmentation_sources)
        self.dataset, self.config = dataset, config
        self._image_shape = tuple(config.IMAGE_SHAPE)
        self._image_ids = np.array(dataset.image_ids)
        self._repeat_factors = checked_factors(repeat_factors, len(self._image_ids))
        self._part = _shard_of(batch_size, shard)
        self.images_per_step = len(self._part)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.workers, self.prefetch = workers, prefetch
        self.wait_seconds = 0.0

    def __len__(self) -> int:
        """Batches in one pass over the images, the last filled up; with repeat factors the
        expected number."""
        visits = len(self._image_ids)
        if self._repeat_factors is not None:
            visits = math.ceil(self._repeat_factors.sum() - 1e-6)
        return -(-visits // self.batch_size)

    def epoch(
        self, epoch_number: int, steps: int | None = None, start: int = 0
    ) -> Generator[list[np.ndarray], None, None]:
        """Yields the batches of an epoch; close the generator to stop its threads early.

        Args:
            epoch_number: >= 0.
            steps: number of batches; None for one pass. Epochs of half a pass or less
                share one, so that no image comes again before most others came; a batch
                beyond the end of a pass goes on with the next pass's order.
            start: batches to pass over, unloaded: of an epoch that was cut off there.

        Yields:
            images float32 [b, H, W, 3] molded, image_meta float32 [b, M], rpn_match
            int32 [b, A, 1], rpn_bbox float32 [b, R, 4], gt_class_ids int32 [b, G],
            gt_boxes int32 [b, G, 4], gt_masks bool [b, h, w, G].

        Raises:
            ImageLoadError: naming the image that cannot be loaded.
        """
        steps = len(self) if steps is None else steps
        with contextlib.closing(self._loaded(self._jobs(epoch_number, steps, start))) as samples:
            for _ in range(start, steps):
                begun = time.perf_counter()
                batch = _assemble(list(itertools.islice(samples, len(self._part))))
                self.wait_seconds += time.perf_counter() - begun
                yield batch

    def image_ids_of(self, epoch_number: int, steps: int | None = None) -> np.ndarray:
        """int [steps, B]: the images of each batch of an epoch, over all shards."""
        steps = len(self) if steps is None else steps
        visits = steps * self.batch_size
        shares = self._shares_of_a_pass(visits)
        order = epoch_order(
            self._image_ids,
            (epoch_number % shares + 1) * visits,
            np.random.default_rng((self.seed, epoch_number // shares)),
            shuffle=self.shuffle,
            repeat_factors=self._repeat_factors,
        )
        return order[len(order) - visits :].reshape(steps, self.batch_size)

    def _shares_of_a_pass(self, visits: int) -> int:
        """Whole epochs of so many visits in one pass, 1 or more; 1 without shuffling."""
        if not self.shuffle or not visits:
            return 1
        whole = len(self._image_ids)
        if self._repeat_factors is not None:
            whole = int(np.floor(self._repeat_factors).sum())  # a pass has no fewer
        return max(1, whole // visits)

    def _jobs(self, epoch: int, steps: int, start: int) -> Iterator[_Job]:
        """Yields a `_Job` for each image of this shard, in order."""
        for step, image_ids in enumerate(self.image_ids_of(epoch, steps)[start:], start):
            # One array a batch, which its images are molded into: stacking would copy them.
            images = np.empty((len(self._part), *self._image_shape), np.float32)
            for place, i in enumerate(self._part):
                yield _Job(epoch, step * self.batch_size + i, image_ids[i], images[place])

    def _load(self, job: _Job) -> list[np.ndarray]:
        # Seeded by the position, so that an image in a second pass is augmented anew.
        rng = np.random.default_rng((self.seed, job.epoch, job.position))
        sample = self._sampler.load(job.image_id, rng, keep_empty=True, out=job.out)
        assert sample is not None  # as empty images are kept
        inputs, _ = sample
        return [x.astype(np.float32) if x.dtype == np.float64 else x for x in inputs]

    def _loaded(self, jobs: Iterator[_Job]) -> Generator[list[np.ndarray], None, None]:
        """Yields the arrays of the jobs' images in order, loading ahead."""
        if not self.workers:
            yield from map(self._load, jobs)
            return
        pool = ThreadPoolExecutor(
            self.workers, thread_name_prefix="batch-loader", initializer=_share_cores
        )
        try:
            ahead = itertools.islice(jobs, (self.prefetch + 1) * len(self._part))
            pending = collections.deque(pool.submit(self._load, job) for job in ahead)
            while pending:
                sample = pending.popleft().result()
                pending.extend(pool.submit(self._load, job) for job in itertools.islice(jobs, 1))
                yield sample
        finally:
            # Waits only for the images that are being loaded.
            pool.shutdown(cancel_futures=True)


def _share_cores() -> None:
    """Keeps OpenCV from starting threads of its own under each of the loader's."""
    with contextlib.suppress(ImportError):  # data sets with own masks need no OpenCV
        import cv2

        cv2.setNumThreads(1)


def _assemble(samples: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Arrays of images -> arrays of the batch; the molded images are in one already."""
    images, *others = zip(*samples, strict=True)
    batch = images[0].base
    assert batch is not None
    return [batch, *(np.stack(arrays) for arrays in others)]


def _shard_of(batch_size: int, shard: tuple[int, int]) -> range:
    """range of the places in a batch that a shard has."""
    index, count = shard
    if not 0 <= index < count or batch_size % count:
        raise ValueError(
            f"the shard is {index} of {count} (counted from 0) of batches of {batch_size}; the "
            "batch size must be a multiple of the number of shards"
        )
    part = batch_size // count
    return range(index * part, (index + 1) * part)
