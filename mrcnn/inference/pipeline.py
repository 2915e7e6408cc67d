"""Many images -> overlays, tables and a gallery; reading, detecting and writing overlap.

The detector is passed in, so this module needs no TensorFlow.
"""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from mrcnn.core.classes import check_names
from mrcnn.core.memory import give_back
from mrcnn.core.reading import MAX_PIXELS, ImageError, count_pixels, quiet_pillow, read_image
from mrcnn.inference.gallery import gallery_page
from mrcnn.inference.listing import InputImage, Listing, Source, list_inputs, writable
from mrcnn.inference.records import VERSION, Record, Records, describe, link, source_state
from mrcnn.inference.results import Result
from mrcnn.inference.tables import coco_files, csv_table, write_failures
from mrcnn.inference.writers import Outputs, write_image

# Pixels of all images between their reading and the writing of their results. A larger
# image is processed alone.
PIXELS_AT_ONCE = 60_000_000
# Images after which freed memory is returned to the system: seldom, as it takes some 10 ms to
# get it anew.
GIVE_BACK_AFTER = 8


class Detector(Protocol):
    """What a run needs of a detector, such as `mrcnn.predictor.Predictor`.

    `prepare` and `to_result` are called in threads, `detect` in the thread of the caller.
    """

    class_names: Sequence[str]
    batch_size: int

    @property
    def fingerprint(self) -> str:
        """A text that changes with everything that changes the results."""

    def prepare(self, image: np.ndarray) -> Any:
        """An image as `detect` and `to_result` take it."""

    def detect(self, batch: list[Any]) -> Sequence[Any]:
        """The raw results of at most `batch_size` prepared images."""

    def to_result(self, prepared: Any, raw: Any) -> Result:
        """The result of one image."""


@dataclass
class Summary:
    """What `run_images` did.

    Attributes:
        images: number of images found.
        processed: number of images with results, those of earlier runs included.
        resumed: how many of these were done before.
        detections: class name -> number of garments, in the order of the class ids.
        failures: (file name, reason) of each image that failed.
        passed_over: (file name, reason) of each file that is no image.
        stopped: "" or what ended the run early.
    """

    output_folder: Path
    images: int
    processed: int = 0
    resumed: int = 0
    detections: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    stopped: str = ""

    @property
    def instances(self) -> int:
        """Number of garments in all images."""
        return sum(self.detections.values())

    def __str__(self) -> str:
        lines = [f"  {count:>6} {name}" for name, count in self.detections.items() if count]
        for rows, text in ((self.failures, "failed"), (self.passed_over, "are no images")):
            if rows:
                lines.append(f"{len(rows)} files {text} (see failures.csv):")
                lines += [f"  {_one_line(name)}: {_one_line(why)}" for name, why in rows[:10]]
                lines += [f"  ... and {len(rows) - 10} more"] if len(rows) > 10 else []
        if self.stopped:
            lines.append(f"{_one_line(self.stopped)}; continue with --resume")
        before = f", {self.resumed} of them before" if self.resumed else ""
        lines.append(
            f"{self.processed} of {self.images} images processed{before}, {self.instances} "
            f"garments found; results are in {self.output_folder}"
        )
        return "\n".join(lines)


def _one_line(text: str) -> str:
    """Text without what would end a line or command a terminal; file names may hold it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run_images(
    predictor: Detector,
    source: Source | Listing,
    output_folder: Source,
    outputs: Outputs | None = None,
    recursive: bool = False,
    resume: bool = False,
    strict: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: bool = True,
) -> Summary:
    """Detects in all images of an input and writes what `outputs` asks for.

    Into `output_folder`, <name> being an image's path within the input, such as street.jpg:
        <name>.png: the image with its garments drawn in.
        masks/<name>.classes.png, masks/<name>.instances.png: ids as grey values, with a palette.
        cutouts/<name>.<number>_<class>.png: each garment on a transparent background.
        results.json, images.json: COCO's results format, and what `loadRes` needs beside it.
            image_id is an image's position in the sorted list, from 1; category_id is that of the
            data set if `predictor` has `category_ids`, else the class id.
        results.csv: one line a garment. failures.csv: file and reason, always written.
        index.html: the gallery. records/: what --resume needs, see `records`.
    An image that can't be read, detected in or drawn is listed and doesn't stop the rest.
    Ctrl-C ends with the tables of what is done.

    Args:
        source: an input as of `listing.list_images`, or what `list_inputs` gave for this output
            folder.
        output_folder: not the input folder. Its files are no images if it lies within the input.
        outputs: None for the defaults.
        recursive: as of `listing.list_images`; a `Listing` is taken as it is.
        resume: keep the results of images that are complete, unchanged and of the same
            settings.
        strict: stop at the first failure.
        max_pixels: larger images fail.
        progress: whether to show a progress bar and print the summary.

    Raises:
        ValueError: if there are no images, the folders are the same, results would replace
            images of the input, or the class names lack the background.
        OSError: if the output folder can't be written to.
    """
    outputs = outputs or Outputs()
    names = check_names(predictor.class_names, len(predictor.class_names))
    folder = Path(output_folder)
    listing = source if isinstance(source, Listing) else list_inputs(source, folder, recursive)
    folder.mkdir(parents=True, exist_ok=True)
    has_earlier_run = (folder / "records").is_dir()
    if _is_case_blind(folder):
        listing = listing.for_case_blind_disk()
    settings = [predictor.fingerprint, *outputs.settings(), max_pixels]
    records = Records(folder, " ".join(map(str, settings)))
    todo = [i for i in listing.images if not (resume and records.is_complete(i, outputs.save))]
    summary = Summary(folder, len(listing.images), passed_over=listing.passed_over)
    summary.resumed = len(listing.images) - len(todo)
    if has_earlier_run:  # otherwise an index.html there is somebody's page
        records.remove_tables(listing.images)
        records.discard_changed(todo)
    bar = tqdm(total=summary.images, initial=summary.resumed, unit="image", disable=not progress)
    with bar, quiet_pillow():
        pipeline = _Pipeline(predictor, records, outputs, max_pixels, bar, strict)
        try:
            if strict and listing.failed:
                raise _StoppedByFailure(*listing.failed[0])
            pipeline.run(todo)
        except _StoppedByFailure as stop:
            summary.stopped = str(stop)
        except KeyboardInterrupt:
            summary.stopped = "interrupted"
    failed = [(writable(name), writable(reason)) for name, reason in listing.failed]
    summary.failures = sorted(failed + pipeline.failures)
    ids = getattr(predictor, "category_ids", None)
    _write_run_files(summary, listing.images, records, names, outputs.save, ids)
    if progress:
        print(summary)
    return summary


run_pictures = run_images  # its earlier name


def _is_case_blind(folder: Path) -> bool:
    """Whether the file system takes "records" and "RECORDS" for the same."""
    (folder / "records").mkdir(exist_ok=True)
    return (folder / "RECORDS").exists()


def _write_run_files(
    summary: Summary,
    images: Iterable[InputImage],
    records: Records,
    names: Sequence[str],
    save: Sequence[str],
    category_ids: Sequence[int] | None = None,
) -> None:
    """Writes the files that cover the whole run, and completes the summary."""
    folder, counts = summary.output_folder, Counter[int]()
    without_results = [(writable(n), why) for n, why in summary.failures + summary.passed_over]
    write_failures(folder, without_results)
    with ExitStack() as stack:
        files = []
        if "json" in save:
            files.append(stack.enter_context(coco_files(folder, names, category_ids)))
        if "csv" in save:
            files.append(stack.enter_context(csv_table(folder, names)))
        if "html" in save:
            files.append(stack.enter_context(gallery_page(folder, names, without_results)))
        for entry in records.entries(images):
            summary.processed += 1
            counts.update(instance.category_id for instance in entry[2].instances)
            for add_entry in files:
                add_entry(entry)
    summary.detections = {name: counts[i] for i, name in enumerate(names) if i}


class _StoppedByFailure(Exception):
    """Ends a strict run at its first failure."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"stopped at {writable(name)}, as --strict asks: {writable(reason)}")


@dataclass
class _Item:
    """An image between its reading and the writing of its results.

    Attributes:
        pixels: by its header, 0 if that can't be read.
        source: `source_state` of its file.
        future: of the thread that reads, later of the one that writes.
    """

    image: InputImage
    pixels: int
    source: list[int] = field(default_factory=list)
    prepared: Any = None
    future: Future[Any] = field(default_factory=Future)


class _Pipeline:
    """Reads and prepares in threads, detects in the caller's thread, draws and writes in threads.

    An item moves from `_reading` to `_batch` to `_writing`. Their length and their pixels are
    bounded. Only the caller's thread moves items, so nothing can deadlock.
    """

    def __init__(
        self,
        detector: Detector,
        records: Records,
        outputs: Outputs,
        max_pixels: int,
        bar: "tqdm[Any]",
        strict: bool,
    ) -> None:
        self._detector, self._records, self._outputs = detector, records, outputs
        self._max_pixels, self._bar, self._strict = max_pixels, bar, strict
        workers = max(2, min(8, os.cpu_count() or 2))
        self._readers = ThreadPoolExecutor(workers, "read")
        self._writers = ThreadPoolExecutor(workers, "write")
        self._queue_length = detector.batch_size + workers
        self._reading: deque[_Item] = deque()
        self._batch: list[_Item] = []
        self._writing: deque[_Item] = deque()
        self._since_given_back = 0
        self.failures: list[tuple[str, str]] = []

    def run(self, images: Iterable[InputImage]) -> None:
        """Processes all images; raises _StoppedByFailure at the first failure if strict."""
        with self._readers, self._writers:
            try:
                for image in images:
                    item = _Item(image, count_pixels(image.path))
                    while self._must_wait(item):
                        self._work_on_oldest()
                    item.future = self._readers.submit(self._read, item)
                    self._reading.append(item)
                while self._reading or self._batch or self._writing:
                    self._work_on_oldest()
            except BaseException:
                for item in [*self._reading, *self._writing]:
                    item.future.cancel()  # what has begun is completed
                raise

    def _must_wait(self, item: _Item) -> bool:
        """Whether an item has to wait until others are done."""
        if len(self._reading) >= self._queue_length:
            return True
        ahead = [*self._reading, *self._batch, *self._writing]
        return bool(ahead) and sum(i.pixels for i in ahead) + item.pixels > PIXELS_AT_ONCE

    def _work_on_oldest(self) -> None:
        """Takes one step: the next image read, else the batch detected, else an image written."""
        while self._writing and self._writing[0].future.done():
            self._complete_oldest_write()
        if self._reading:
            item = self._reading.popleft()
            try:
                item.prepared = item.future.result()
                self._batch.append(item)
            except Exception as error:
                self._fail(item, error)
            if len(self._batch) == self._detector.batch_size:
                self._detect_batch()
        elif self._batch:
            self._detect_batch()
        elif self._writing:
            self._complete_oldest_write()

    def _detect_batch(self) -> None:
        """Runs the detector on the batch and hands its images to the writers."""
        batch, self._batch = self._batch, []
        self._since_given_back += len(batch)
        if self._since_given_back >= GIVE_BACK_AFTER:
            self._since_given_back = 0
            give_back()
        for item, raw in self._detected(batch):
            while len(self._writing) >= self._queue_length:
                self._complete_oldest_write()
            item.future = self._writers.submit(self._write, item, item.prepared, raw)
            item.prepared = None
            self._writing.append(item)

    def _detected(self, batch: list[_Item]) -> Iterator[tuple[_Item, Any]]:
        """Yields (item, raw result); after an error each image is tried alone."""
        try:
            raws = self._detector.detect([item.prepared for item in batch])
            if len(raws) != len(batch):
                raise ValueError(f"detect() got {len(batch)} images, gave {len(raws)} results")
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0], error)
                return
            for item in batch:
                yield from self._detected([item])
            return
        yield from zip(batch, raws, strict=True)

    def _complete_oldest_write(self) -> None:
        item = self._writing.popleft()
        try:
            item.future.result()
            self._bar.update()
        except Exception as error:
            self._fail(item, error)

    def _fail(self, item: _Item, error: Exception) -> None:
        text = str(error) if isinstance(error, ImageError) else f"{type(error).__name__}: {error}"
        # The file is named beside it; a reason of many lines would tear the table apart.
        text = text.removeprefix(f"{item.image.path} ")
        reason = writable(" ".join(text.split()))
        self.failures.append((writable(item.image.name), reason))
        self._records.discard(item.image)
        self._bar.update()
        self._bar.set_postfix(failed=len(self.failures), refresh=False)
        if self._strict:
            raise _StoppedByFailure(item.image.name, reason)

    # --- In threads -----------------------------------------------------------------------

    def _read(self, item: _Item) -> Any:
        path = item.image.path
        item.source = source_state(path) if path.is_file() else []
        return self._detector.prepare(read_image(path, max_pixels=self._max_pixels))

    def _write(self, item: _Item, prepared: Any, raw: Any) -> None:
        self._records.discard(item.image)
        result = self._detector.to_result(prepared, raw)
        folder, save = self._records.folder, self._outputs.save
        files, thumbnail = write_image(result, item.image.output, folder, self._outputs)
        height, width = result.size
        record = Record(
            version=VERSION,
            settings=self._records.settings,
            source=item.source,
            save=list(save),
            files=[link(name) for name in files],
            thumbnail=thumbnail,
            width=width,
            height=height,
            instances=describe(result),
        )
        self._records.write(item.image, record)
