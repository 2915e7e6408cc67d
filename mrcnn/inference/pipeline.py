"""Many images -> overlays, tables and a gallery; reading, detecting and writing overlap.

The detector is passed in, so this module needs no TensorFlow.
"""

import os
import sys
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mrcnn.core.classes import check_names
from mrcnn.core.memory import give_back
from mrcnn.core.reading import MAX_PIXELS, ImageError, count_pixels, quiet_pillow, read_image
from mrcnn.core.text import writable
from mrcnn.inference.detector import Detector
from mrcnn.inference.folder import OutputError, OutputFolder, OutputLost
from mrcnn.inference.gallery import gallery_page
from mrcnn.inference.listing import InputImage, Listing, Source, list_inputs
from mrcnn.inference.names import TABLES, link, mask_files, overlay_file, record_file, table_files
from mrcnn.inference.records import VERSION, Record, Records, describe, source_state
from mrcnn.inference.summary import Summary
from mrcnn.inference.tables import coco_files, csv_table, write_failures
from mrcnn.inference.writers import Outputs, write_image

# Pixels of all images between their reading and the writing of their results. A larger
# image is processed alone.
PIXELS_AT_ONCE = 60_000_000
# Images after which freed memory is returned to the system: seldom, as it takes some 10 ms to
# get it anew.
GIVE_BACK_AFTER = 8


def run_images(
    predictor: Detector,
    source: Source | Listing,
    output_folder: Source | OutputFolder,
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
        index.html: the gallery. records/: what --resume needs, see `records`, and what was
            written, see `notes`.
    An image that can't be read, detected in, drawn or written is listed and doesn't stop the rest,
    unless nothing more can be written: then those that are left are listed too. Ctrl-C ends with
    the tables of what is done. A file that this program didn't write, or that has been changed
    since, is neither replaced nor removed.

    Args:
        source: an input as of `listing.list_images`, or what `list_inputs` gave for this output
            folder.
        output_folder: not the input folder. If it lies within the input, it must be the output
            folder of an earlier run, or hold no images.
        outputs: None for the defaults.
        recursive: as of `listing.list_images`; a `Listing` is taken as it is.
        resume: keep the results of images that are complete, unchanged and of the same
            settings.
        strict: stop at the first failure.
        max_pixels: larger images fail.
        progress: whether to show a progress bar and print the summary.

    Raises:
        ValueError: as `list_inputs`, or if the class names lack the background.
        OutputError: if the output folder can't be written to or is in use, a table would replace
            somebody else's file, or can't be written.
    """
    outputs = outputs or Outputs()
    names = check_names(predictor.class_names, len(predictor.class_names))
    with ExitStack() as stack:
        if not isinstance(output_folder, OutputFolder):
            if not isinstance(source, Listing):
                source = list_inputs(source, output_folder, recursive)
            output_folder = stack.enter_context(OutputFolder(output_folder))
        elif not isinstance(source, Listing):
            source = list_inputs(source, output_folder.path, recursive)
        output_folder.require(table_files(outputs.save))
        if _is_case_blind(output_folder.path):
            source = source.for_case_blind_disk()
        settings = [predictor.fingerprint, *outputs.settings(), max_pixels]
        records = Records(output_folder, " ".join(map(str, settings)), names)
        return _run(predictor, source, records, outputs, resume, strict, max_pixels, progress)


run_pictures = run_images  # its earlier name


def _run(
    predictor: Detector,
    listing: Listing,
    records: Records,
    outputs: Outputs,
    resume: bool,
    strict: bool,
    max_pixels: int,
    progress: bool,
) -> Summary:
    """What `run_images` does once the output folder is open."""
    folder, images = records.folder, listing.images
    todo = [i for i in images if not (resume and records.is_complete(i, outputs.save))]
    if records.unusable:
        print(f"records that can't be used: {records.unusable_text()}", file=sys.stderr)
    summary = Summary(folder.path, len(images), passed_over=listing.passed_over)
    summary.resumed = len(images) - len(todo)
    bar = tqdm(total=len(images), initial=summary.resumed, unit="image", disable=not progress)
    with bar, quiet_pillow():
        pipeline = _Pipeline(predictor, records, outputs, max_pixels, bar, strict)
        try:
            if strict and listing.failed:
                raise _StoppedByFailure(*listing.failed[0])
            pipeline.run(todo)
        except KeyboardInterrupt:
            summary.stopped = "interrupted"
        except (_StoppedByFailure, OutputLost) as stop:
            summary.stopped = str(stop)
            if isinstance(stop, OutputLost):
                pipeline.fail_rest(images, str(stop))
    if summary.stopped:
        records.discard_changed(todo)
    pipeline.fail_lost(images)
    ids = getattr(predictor, "category_ids", None)
    try:
        if folder.is_there():
            _write_run_files(summary, listing, pipeline, outputs.save, ids)
    finally:
        summary.failures = sorted(_all_failures(listing, pipeline))
        summary.kept = sorted(folder.kept)
        if progress:
            print(summary)
    return summary


def _all_failures(listing: Listing, pipeline: "_Pipeline") -> list[tuple[str, str]]:
    """(file name, reason), as they are told: of sub-folders and of images."""
    folders = [(writable(name), writable(reason)) for name, reason in listing.failed]
    return folders + pipeline.failures


def _is_case_blind(folder: Path) -> bool:
    """Whether the file system takes "records" and "RECORDS" for the same."""
    return (folder / "RECORDS").exists()


def _write_run_files(
    summary: Summary,
    listing: Listing,
    pipeline: "_Pipeline",
    save: Sequence[str],
    category_ids: Sequence[int] | None,
) -> None:
    """Writes the files that cover the whole run, and completes the summary."""
    records, names, counts = pipeline.records, pipeline.records.class_names, Counter[int]()
    folder, passed_over = records.folder, [(writable(n), why) for n, why in listing.passed_over]
    listed = set[str]()
    with ExitStack() as stack:
        files = []
        if "json" in save:
            files.append(stack.enter_context(coco_files(folder, names, category_ids)))
        if "csv" in save:
            files.append(stack.enter_context(csv_table(folder, names)))
        if "html" in save:
            failures = sorted(_all_failures(listing, pipeline)) + passed_over
            files.append(stack.enter_context(gallery_page(folder, names, failures)))
        for entry in records.entries(listing.images, leave_out=pipeline.failed):
            listed.add(entry[1].output)
            counts.update(instance.category_id for instance in entry[2].instances)
            for add_entry in files:
                add_entry(entry)
    pipeline.fail_unlisted(listing.images, listed)
    write_failures(folder, _all_failures(listing, pipeline) + passed_over)
    for name in set(TABLES) - set(table_files(save)):
        folder.remove(name)  # of an earlier run
    summary.processed, summary.has_tables = len(listed), True
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

    Attributes:
        failures: (name, reason) of each image that failed.
        failed: outputs of these images.
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
        self._detector, self.records, self._outputs = detector, records, outputs
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
        self.failed: set[str] = set()

    def run(self, images: Iterable[InputImage]) -> None:
        """Processes all images.

        Raises:
            _StoppedByFailure: at the first failure, if strict.
            OutputLost: if no results can be written any more.
        """
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
        except OutputLost:
            raise
        except Exception as error:
            self._fail(item, error)

    def _fail(self, item: _Item, error: Exception) -> None:
        is_plain = isinstance(error, ImageError | OutputError)
        text = str(error) if is_plain else f"{type(error).__name__}: {error}"
        # The file is named beside it; a reason of many lines would tear the table apart.
        self._note(item.image, " ".join(text.removeprefix(f"{item.image.path} ").split()))
        self.records.discard(item.image)
        self._bar.update()
        self._bar.set_postfix(failed=len(self.failures), refresh=False)
        if self._strict:
            raise _StoppedByFailure(*self.failures[-1])

    def _note(self, image: InputImage, reason: str) -> None:
        self.failures.append((writable(image.name), writable(reason)))
        self.failed.add(image.output)

    # --- At the end: each image has results or is a failure -------------------------------------

    def fail_rest(self, images: Iterable[InputImage], reason: str) -> None:
        """Notes a failure of each image that the run didn't get to and that isn't complete."""
        for image in images:
            is_told = image.output in self.failed or image.output in self.records.done
            if not is_told and not self.records.is_complete(image, self._outputs.save):
                self._note(image, reason)

    def fail_lost(self, images: Iterable[InputImage]) -> None:
        """Notes a failure of each image whose results have been taken away."""
        for image in images:
            if image.output in self.records.done and (name := self.records.lost(image)):
                self._note(image, f"{name} was deleted or changed during the run")

    def fail_unlisted(self, images: Iterable[InputImage], listed: Collection[str]) -> None:
        """Notes a failure of each image that was done but is in no table."""
        unlisted = self.records.done.keys() - self.failed - set(listed)
        for image in images:
            if image.output in unlisted:
                why = self.records.unusable.get(image.output, ("", "it is gone"))[1]
                self._note(image, f"its record can't be used: {why}")

    # --- In threads -----------------------------------------------------------------------

    def _read(self, item: _Item) -> Any:
        path, output, save = item.image.path, item.image.output, self._outputs.save
        names = [record_file(output), *(mask_files(output) if "masks" in save else ())]
        names += [overlay_file(output, self._outputs.overlay_format)] if "overlay" in save else []
        self.records.folder.require(names, quick=True)
        item.source = source_state(path) if path.is_file() else []
        return self._detector.prepare(read_image(path, max_pixels=self._max_pixels))

    def _write(self, item: _Item, prepared: Any, raw: Any) -> None:
        result = self._detector.to_result(prepared, raw)
        folder, save = self.records.folder, self._outputs.save
        # From here on the files of an earlier run are no longer complete.
        folder.remove(record_file(item.image.output))
        files, thumbnail = write_image(result, item.image.output, folder, self._outputs)
        height, width = result.size
        record = Record(
            version=VERSION,
            settings=self.records.settings,
            source=item.source,
            save=list(save),
            files=[link(name) for name in files],
            thumbnail=thumbnail,
            width=width,
            height=height,
            instances=describe(result),
        )
        self.records.write(item.image, record)
