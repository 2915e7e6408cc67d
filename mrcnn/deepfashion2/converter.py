"""A split in DeepFashion2's layout -> a COCO file and a table of what was wrong with it.

Images are converted by several processes, in order, and written as they come: memory does not
grow with the split. One image's records: `mrcnn/deepfashion2/records.py`.
"""

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from tqdm import tqdm

from mrcnn.core.classes import DEEPFASHION2
from mrcnn.core.files import begins_with, replacing
from mrcnn.core.problems import HEAD, Problem, as_csv
from mrcnn.core.processes import sigint_blocked
from mrcnn.core.reading import quiet_pillow
from mrcnn.deepfashion2.records import Form, categories, convert_image

# Splits that need annotations; the data set's test split has none.
ANNOTATED_SPLITS = ("train", "validation")
SUFFIXES = (".jpg", ".jpeg", ".png")
CHUNK = 128  # images handed to a worker at a time
DEFAULT_FORM = Form()


class Entry(NamedTuple):
    """An image of a split: its id and the names of its files."""

    image_id: int
    image: str
    annotation: str | None


class Chunk(NamedTuple):
    """Some images' records as JSON, and what was found.

    The records of annotations begin after their id, which only the writer knows.
    """

    size: int
    images: list[bytes]
    annotations: list[bytes]
    category_ids: list[int]
    problems: list[Problem]


@dataclass
class Summary:
    """What a split gave: counts of images, items by category id, and problems by kind."""

    split: str
    images: int = 0
    items: Counter[int] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        total = self.items.total()
        lines = [f"{self.split}: {self.images:,} images, {total:,} items"]
        lines += [
            f"  {i:>2} {name:<24}{self.items[i]:>9,}" for i, name in enumerate(DEEPFASHION2) if i
        ]
        lines.append(f"{self.problems.total():,} problems")
        lines += [f"  {kind:<27}{count:>9,}" for kind, count in sorted(self.problems.items())]
        return "\n".join(lines)


def has_split(folder: Path) -> bool:
    """Whether `folder` holds images in `image/`, and `annos/`, which only other splits than
    train and validation may lack: the data set's test split has no annotations."""
    try:
        with os.scandir(folder / "image") as names:
            has_images = any(entry.name.lower().endswith(SUFFIXES) for entry in names)
    except OSError:
        return False
    return has_images and ((folder / "annos").is_dir() or folder.name not in ANNOTATED_SPLITS)


def list_entries(folder: Path, problems: list[Problem]) -> list[Entry]:
    """All images and annotations of a split, by image id.

    Names that are no number, a second name for a number, and other files go to `problems`.
    """
    annotated = (folder / "annos").is_dir()
    images = _by_stem(folder / "image", SUFFIXES, problems)
    annotations = _by_stem(folder / "annos", (".json",), problems) if annotated else {}
    entries: dict[int, Entry] = {}
    for stem in sorted(images.keys() | annotations.keys()):
        names = images.get(stem, [f"{stem}.jpg"])
        if not re.fullmatch("[0-9]{1,15}", stem):
            detail = "not a number"
        elif int(stem) in entries:
            detail = f"{entries[int(stem)].image!r} has the same number"
        else:
            annotation = f"{stem}.json" if annotated else None
            entries[int(stem)] = Entry(int(stem), names[0], annotation)
            detail, names = f"{names[0]!r} has the same number", names[1:]
        problems += [Problem(n, "", "bad file name", detail, "picture skipped") for n in names]
    return [entries[image_id] for image_id in sorted(entries)]


def _by_stem(
    folder: Path, suffixes: tuple[str, ...], problems: list[Problem]
) -> dict[str, list[str]]:
    """File names with one of the suffixes by what stands before it."""
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in suffixes and not name.startswith("."):
            found.setdefault(stem, []).append(name)
        elif not name.startswith((".", "Thumbs.db", "desktop.ini")):  # what file managers leave
            detail = f"in {folder.name}/, where {', '.join(suffixes)} files belong"
            problems.append(Problem(name, "", "other file", detail, "ignored"))
    return found


def convert_chunk(folder: Path, entries: list[Entry], form: Form) -> Chunk:
    """Converts some images; what a worker process does."""
    chunk = Chunk(len(entries), [], [], [], [])
    with quiet_pillow():
        for image_id, name, annotation in entries:
            records = convert_image(folder, name, annotation, form, chunk.problems)
            if records is None:
                continue
            image, items = records
            chunk.images.append(orjson.dumps({"id": image_id, **image}))
            for item in items:
                chunk.annotations.append(orjson.dumps({"image_id": image_id, **item})[1:])
                chunk.category_ids.append(item["category_id"])
    return chunk


def _start_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with it even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it can't be blocked
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def chunks(folder: Path, entries: list[Entry], form: Form, workers: int) -> Iterator[Chunk]:
    """`convert_chunk` over all entries, in their order, however many processes work on it."""
    parts = [entries[i : i + CHUNK] for i in range(0, len(entries), CHUNK)]
    workers = min(workers, len(parts))
    if workers < 2:
        yield from (convert_chunk(folder, part, form) for part in parts)
        return
    # Not forked: the progress bar has a thread, and a fork in its wrong moment hangs.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker)
    pending: deque[Any] = deque()
    try:
        # A few in advance keep the workers busy; all at once would keep all results in memory.
        for part in parts:
            with sigint_blocked():  # the first one starts the workers
                pending.append(pool.submit(convert_chunk, folder, part, form))
            if len(pending) > 3 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _result_file(path: Path, dry_run: bool) -> Iterator[Any]:
    """A binary file that takes its name at the end, if all went well."""
    if dry_run:
        with open(os.devnull, "wb") as file:
            yield file
        return
    with replacing(path) as temporary, open(temporary, "wb") as file:
        yield file


def _check_replaceable(path: Path, start: bytes) -> None:
    """Raises ValueError for a file that doesn't begin as those of the converter do."""
    if os.path.lexists(path) and not begins_with(path, start):
        raise ValueError(
            f"{path} is not a file that this command wrote, so it is left alone; move it away, or "
            "choose another folder with --output_dir"
        )


def convert_split(
    folder: Path,
    output: Path,
    form: Form = DEFAULT_FORM,
    *,
    limit: int | None = None,
    workers: int = 1,
    dry_run: bool = False,
) -> Summary:
    """Converts one split into `<split>_coco.json` and `<split>.problems.csv`.

    Annotation ids count from 1 in the order of image id, then item number. Nothing appears under
    the final names before all is done.

    Args:
        folder: holds `image/` and `annos/`; without `annos/` the JSON has images only.
        output: folder for the two files; it must exist, unless `dry_run`.
        limit: convert the first images by id only.
        workers: processes; the files are the same for any number.
        dry_run: do all but write.

    Raises:
        ValueError: if the split can't be listed, or would replace files that this didn't write.
        OSError: if the results can't be written.
    """
    found: list[Problem] = []
    try:
        entries = list_entries(folder, found)[:limit]
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error}") from None
    summary = Summary(folder.name)
    info = {"description": f"{folder.name} split of a data set in DeepFashion2's layout"}
    head = {"info": info, "licenses": [], "categories": categories(form)}
    paths = output / f"{folder.name}_coco.json", output / f"{folder.name}.problems.csv"
    if not dry_run:
        for path, start in zip(paths, (orjson.dumps({"info": info})[:-1], HEAD), strict=True):
            _check_replaceable(path, start)
    with (
        _result_file(paths[0], dry_run) as file,
        _result_file(paths[1], dry_run) as table,
        # Annotations come with their images but stand behind all of them.
        tempfile.TemporaryFile(dir=None if dry_run else output) as annotations,
        tqdm(total=len(entries), desc=folder.name, unit=" images", disable=None) as bar,
    ):
        table.write(HEAD)
        table.write(as_csv(found))
        summary.problems.update(p.kind for p in found)
        file.write(orjson.dumps(head)[:-1] + b',\n"images":[')
        for chunk in chunks(folder, entries, form, workers):
            _write(chunk, file, annotations, summary, dry_run)
            table.write(as_csv(chunk.problems))
            bar.update(chunk.size)
        file.write(b'],\n"annotations":[')
        annotations.seek(0)
        shutil.copyfileobj(annotations, file, 2**20)
        file.write(b"]}\n")
    return summary


def _write(chunk: Chunk, images: Any, annotations: Any, summary: Summary, dry_run: bool) -> None:
    """Appends a chunk's records, one on a line, and counts them."""
    for record in chunk.images:
        images.write((b",\n" if summary.images else b"\n") + record)
        summary.images += 1
    first = summary.items.total() + 1
    summary.items.update(chunk.category_ids)
    summary.problems.update(p.kind for p in chunk.problems)
    if dry_run:
        return
    for number, record in enumerate(chunk.annotations, first):
        separator = b",\n" if number > 1 else b"\n"
        annotations.write(separator + b'{"id":%d,' % number + record)
