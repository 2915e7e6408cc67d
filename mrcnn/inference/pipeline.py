"""Many images -> overlays, tables and a gallery, while reading, detecting and writing overlap.

The detector is passed in: a `predictor.Predictor`, or any object with its `class_names`,
`batch_size`, `fingerprint`, `prepare`, `detect` and `finish`. This module needs no TensorFlow.
"""

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mrcnn.core.classes import check_names
from mrcnn.core.memory import give_back
from mrcnn.core.reading import MAX_PIXELS, ImageError, count_pixels, quiet_pillow, read_image
from mrcnn.inference.gallery import write_gallery
from mrcnn.inference.listing import Picture, list_pictures, pattern_folder
from mrcnn.inference.records import Records, source_state
from mrcnn.inference.results import to_coco_results as to_coco_results  # from here too
from mrcnn.inference.tables import writable, write_failures, write_tables
from mrcnn.inference.writers import FORMATS, Outputs, write_picture

# Pixels of all images between their reading and the writing of their results. A larger
# image is processed alone.
PIXELS_AT_ONCE = 60_000_000
# Images after which freed memory is returned to the system: seldom, as it takes some 10 ms to
# get it anew.
GIVE_BACK_AFTER = 8


@dataclass
class Summary:
    """What `run_pictures` did.

    Attributes:
        output_folder: where the files lie.
        images: number of images found.
        processed: number of images with results, those of earlier runs included.
        resumed: how many of these were done before.
        detections: class name -> number of garments, in the order of the class ids.
        failures: (file name, reason) of each image that failed.
        passed_over: (file name, reason) of each file that is no image.
        stopped: "" or what ended the run early.
    """

    output_folder: Path
    pictures: int
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
            lines.append(f"{_one_line(self.stopped)}; go on with --resume")
        before = f", {self.resumed} of them before" if self.resumed else ""
        lines.append(
            f"{self.processed} of {self.pictures} images processed{before}, {self.instances} "
            f"garments found; results are in {self.output_folder}"
        )
        return "\n".join(lines)


def _one_line(text):
    """Text without what would end a line or command a terminal; file names may hold it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def run_pictures(
    predictor,
    source,
    output_folder,
    outputs=None,
    recursive=False,
    resume=False,
    strict=False,
    max_pixels=MAX_PIXELS,
    progress=True,
):
    """Detects in all images of an input and writes what `outputs` asks for.

    Into `output_folder`, <name> being an image's path within the input, such as street.jpg:
        <name>.png: the image with its garments drawn in.
        masks/<name>.classes.png, masks/<name>.instances.png: ids as grey values, with a palette.
        cutouts/<name>.<number>_<class>.png: each garment on a transparent ground.
        results.json, images.json: COCO's results form and what `loadRes` needs beside it.
            image_id is an image's position in the sorted list, from 1.
        results.csv: one line a garment. failures.csv: file and reason, always written.
        index.html: the gallery. records/: what --resume needs, see `records`.
    An image that can't be read, detected in or drawn is listed and doesn't stop the rest.
    Ctrl-C ends with the tables of what is done.

    Args:
        predictor: see the head of this module.
        source, recursive: see `listing.list_pictures`.
        output_folder: str or PathLike, not the input folder. If it lies within the input, its
            files are no images of it.
        outputs: `writers.Outputs`, None for its defaults.
        resume: keep the results of images that are complete, unchanged and of the same
            settings.
        strict: stop at the first failure.
        max_pixels: larger images fail.
        progress: whether to show a progress bar and print the summary.

    Returns:
        `Summary`.

    Raises:
        ValueError: if there are no images, the folders are the same, results would replace
            images of the input or the names can't be.
        OSError: if the output folder can't be written to.
    """
    outputs = outputs or Outputs()
    names = check_names(predictor.class_names, len(predictor.class_names))
    folder = Path(output_folder)
    listing = list_inputs(source, folder, recursive)
    folder.mkdir(parents=True, exist_ok=True)
    is_ours = (folder / "records").is_dir()
    if _is_case_blind(folder):
        listing = list_pictures(source, recursive, same_case=True, leave_out=folder)
    settings = [predictor.fingerprint, *outputs.settings(), max_pixels]
    records = Records(folder, " ".join(map(str, settings)))
    summary = Summary(folder, len(listing.pictures), passed_over=listing.passed_over)
    todo = [p for p in listing.pictures if not (resume and records.is_complete(p, outputs.save))]
    summary.resumed = len(listing.pictures) - len(todo)
    if is_ours:  # else an index.html there is somebody's page
        records.forget_tables(listing.pictures)
        records.forget_changed(todo)
    bar = tqdm(
        total=len(listing.pictures),
        initial=summary.resumed,
        unit="picture",
        disable=not progress,
    )
    with bar, quiet_pillow():
        pipeline = _Pipeline(predictor, records, outputs, max_pixels, bar, strict)
        try:
            if strict and listing.failed:
                name, reason = listing.failed[0]
                raise _Stop(f"stopped at {writable(name)}, as --strict asks: {writable(reason)}")
            pipeline.run(todo)
        except _Stop as stop:
            summary.stopped = str(stop)
        except KeyboardInterrupt:
            summary.stopped = "interrupted"
    failed = [(writable(name), writable(reason)) for name, reason in listing.failed]
    summary.failures = sorted(failed + pipeline.failures)
    _finish(summary, listing.pictures, records, names, outputs)
    if progress:
        print(summary)
    return summary


def list_inputs(source, output_folder, recursive=False):
    """The images of an input, held against where their results would go.

    Args:
        source, output_folder, recursive: as of `run_pictures`. No folder is made.

    Returns:
        `listing.Listing`.

    Raises:
        ValueError: if there are no images, or results would get among or replace them.
    """
    folder = Path(output_folder)
    _check_folders(source, folder)
    listing = list_pictures(source, recursive, leave_out=folder)
    _check_names(listing.pictures, folder)
    return listing


def _check_folders(source, folder):
    """Refuses to write where the next run would take the results for images."""
    read_from = source if os.path.isdir(source) else pattern_folder(source)
    if read_from is not None and folder.is_dir() and folder.samefile(read_from):
        raise ValueError(
            f"the images of {os.fspath(source)!r} lie in the output folder; choose another "
            "output folder, as the results would be taken for images next time"
        )


def _check_names(pictures, folder):
    """Refuses overlays that would replace an image of the input."""
    real = cache(os.path.realpath)
    inputs = {os.path.join(real(p.path.parent), p.path.name) for p in pictures}
    for picture in pictures:
        for ending in FORMATS:
            overlay = folder / f"{picture.output}.{ending}"
            if os.path.join(real(overlay.parent), overlay.name) in inputs:
                raise ValueError(
                    f"the overlay of {writable(picture.name)} would replace {overlay}, which is "
                    "an image of the input too; choose another output folder"
                )


def _is_case_blind(folder):
    """Whether the file system takes "records" and "RECORDS" for the same."""
    (folder / "records").mkdir(exist_ok=True)
    return (folder / "RECORDS").exists()


def _finish(summary, pictures, records, names, outputs):
    """Writes the files that cover the whole run."""

    def entries():
        for image_id, picture in enumerate(pictures, 1):
            record = records.read(picture)
            if record is not None and record["settings"] == records.settings:
                yield image_id, picture, record

    folder = summary.output_folder
    processed, counts = write_tables(folder, entries(), names, outputs.save)
    rows = summary.failures + summary.passed_over
    rows = [(writable(name), reason) for name, reason in rows]
    write_failures(folder, rows)
    if "html" in outputs.save:
        write_gallery(folder, entries(), names, rows)
    summary.processed = processed
    summary.detections = {name: counts[i] for i, name in enumerate(names) if i}


class _Stop(Exception):
    """Ends a run early; its text says why."""


@dataclass
class _Job:
    """An image on its way. `pixels` is what its header says, 0 if it can't be read."""

    picture: Picture
    pixels: int
    source: list[int] = field(default_factory=list)
    prepared: Any = None
    future: Future = field(default_factory=Future)


class _Pipeline:
    """Reads and prepares in threads, detects in this one, finishes and writes in threads.

    Queues are bounded by number and by pixels; this thread alone puts into and takes from them,
    so nothing can block.
    """

    def __init__(self, predictor, records, outputs, max_pixels, bar, strict):
        self._predictor, self._records, self._outputs = predictor, records, outputs
        self._max_pixels, self._bar, self._strict = max_pixels, bar, strict
        self._workers = max(2, min(8, os.cpu_count() or 2))
        self._ahead = predictor.batch_size + self._workers
        self._reading: deque[_Job] = deque()
        self._batch: list[_Job] = []
        self._writing: deque[_Job] = deque()
        self._since_given_back = 0
        self.failures: list[tuple[str, str]] = []

    def run(self, pictures):
        """Processes all; raises _Stop at the first failure if strict."""
        with (
            ThreadPoolExecutor(self._workers, "read") as self._readers,
            ThreadPoolExecutor(self._workers, "write") as self._writers,
        ):
            try:
                for picture in pictures:
                    job = _Job(picture, count_pixels(picture.path))
                    while self._must_wait(job):
                        self._advance()
                    job.future = self._readers.submit(self._read, job)
                    self._reading.append(job)
                while self._reading or self._batch or self._writing:
                    self._advance()
            except BaseException:
                for job in [*self._reading, *self._writing]:
                    job.future.cancel()  # what has begun is brought to its end
                raise

    def _must_wait(self, job):
        waiting = [*self._reading, *self._batch, *self._writing]
        pixels = sum(j.pixels for j in waiting) + job.pixels
        return len(self._reading) >= self._ahead or (waiting and pixels > PIXELS_AT_ONCE)

    def _advance(self):
        """Takes one step of the oldest work that is left."""
        while self._writing and self._writing[0].future.done():
            self._settle()
        if self._reading:
            job = self._reading.popleft()
            try:
                job.prepared = job.future.result()
                self._batch.append(job)
            except Exception as error:
                self._fail(job, error)
            if len(self._batch) == self._predictor.batch_size:
                self._detect()
        elif self._batch:
            self._detect()
        elif self._writing:
            self._settle()

    def _detect(self):
        batch, self._batch = self._batch, []
        self._since_given_back += len(batch)
        if self._since_given_back >= GIVE_BACK_AFTER:
            self._since_given_back = 0
            give_back()
        for job, raw in self._detected(batch):
            while len(self._writing) >= self._ahead:
                self._settle()
            job.future = self._writers.submit(self._write, job, job.prepared, raw)
            job.prepared = None
            self._writing.append(job)

    def _detected(self, batch):
        """Yields (job, raw); after an error each image is tried alone."""
        try:
            raws = self._predictor.detect([job.prepared for job in batch])
            if len(raws) != len(batch):
                raise ValueError(f"detect() got {len(batch)} images, gave {len(raws)} results")
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0], error)
                return
            for job in batch:
                yield from self._detected([job])
            return
        yield from zip(batch, raws, strict=True)

    def _settle(self):
        job = self._writing.popleft()
        try:
            job.future.result()
            self._bar.update()
        except Exception as error:
            self._fail(job, error)

    def _fail(self, job, error):
        text = str(error) if isinstance(error, ImageError) else f"{type(error).__name__}: {error}"
        # The file stands beside it; a reason of many lines would tear the table apart.
        text = text.removeprefix(f"{job.picture.path} ")
        reason = writable(" ".join(text.split()))
        self.failures.append((writable(job.picture.name), reason))
        self._records.discard(job.picture)
        self._bar.update()
        self._bar.set_postfix(failed=len(self.failures), refresh=False)
        if self._strict:
            raise _Stop(f"stopped at {writable(job.picture.name)}, as --strict asks: {reason}")

    # --- In threads -----------------------------------------------------------------------

    def _read(self, job):
        path = job.picture.path
        job.source = source_state(path) if path.is_file() else []
        return self._predictor.prepare(read_image(path, max_pixels=self._max_pixels))

    def _write(self, job, prepared, raw):
        self._records.discard(job.picture)
        result = self._predictor.finish(prepared, raw)
        content = write_picture(result, job.picture.output, self._records.folder, self._outputs)
        self._records.write(job.picture, job.source, content, self._outputs.save)
