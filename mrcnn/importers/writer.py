"""A `Source` -> COCO files, tables of problems, and a data.toml that names them.

Records go to temporary files while they are read, so memory doesn't grow with the data set. Nothing
appears under its final name before all is done.
"""

import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from tqdm import tqdm

from mrcnn.coco import masks
from mrcnn.core.files import begins_with, replacing, write_atomically
from mrcnn.core.problems import HEAD, Unusable, as_csv
from mrcnn.importers.source import AnnotatedImage, Item, Source, SourceError, Split

Record = dict[str, Any]  # an object of JSON
# What our files begin with: no others are replaced.
COCO_START = b'{"info":{"description":"Imported by mask-rcnn-clothing'
TOML_START = b"# Imported by mask-rcnn-clothing"
DECIMALS = 2  # of coordinates: a hundredth of a pixel


@dataclass
class Summary:
    """What a split gave.

    Attributes:
        items: counts by class. boxes: items that have a box and no mask.
        problems: counts by kind.
    """

    split: str
    images: int = 0
    items: Counter[str] = field(default_factory=Counter)
    boxes: int = 0
    problems: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [f"{self.split}: {self.images:,} images, {self.items.total():,} items"]
        lines += [f"  {name:<27}{count:>9,}" for name, count in self.items.most_common()]
        if self.boxes:
            lines.append(f"{self.boxes:,} of them are boxes without a mask")
        lines.append(f"{self.problems.total():,} problems")
        lines += [f"  {kind:<27}{count:>9,}" for kind, count in sorted(self.problems.items())]
        return "\n".join(lines)


def write(
    source: Source,
    output: Path,
    origin: str,
    *,
    class_name: str | None = None,
    limit: int | None = None,
    dry_run: bool = False,
) -> list[Summary]:
    """Writes `<split>_coco.json` and `<split>.problems.csv` for each split, and `data.toml`.

    Ids of images, annotations and classes count from 1: images in the source's order, classes in the
    order that it declares, and then by name.

    Args:
        output: folder for the files; it must exist, unless `dry_run`.
        origin: the format, for the files' descriptions.
        class_name: one class for all items.
        limit: use the first images of each split only.
        dry_run: do all but write.

    Raises:
        SourceError: if there are files of these names that this package didn't write.
    """
    if not dry_run:
        for split in source.splits:
            _check_replaceable(output / f"{split.name}_coco.json", COCO_START)
            _check_replaceable(output / f"{split.name}.problems.csv", HEAD)
        _check_replaceable(output / "data.toml", TOML_START)
    with contextlib.ExitStack() as stack:
        drafts = [_Draft(split, output, dry_run, stack, class_name) for split in source.splits]
        for draft in drafts:
            draft.fill(limit)
        declared = [class_name] if class_name else list(source.names)
        used = sorted({name for draft in drafts for name in draft.summary.items})
        ids = {name: i for i, name in enumerate(dict.fromkeys([*declared, *used]), 1)}
        for draft in drafts:
            draft.finish(ids, origin)
    if not dry_run:
        write_atomically(output / "data.toml", _toml(source.splits, output, origin))
    return [draft.summary for draft in drafts]


def _check_replaceable(path: Path, start: bytes) -> None:
    if os.path.lexists(path) and not begins_with(path, start):
        raise SourceError(
            f"{path} is not a file that this command wrote, so it is left alone; move it away, or "
            "choose another folder with --output_dir"
        )


def _toml(splits: Sequence[Split], output: Path, origin: str) -> bytes:
    """The data.toml; paths are relative to its folder where one of the two holds the other."""
    lines = [f"{TOML_START.decode()} from {origin}."]
    for split in splits:
        folder = os.path.abspath(split.folder)
        inner = os.path.relpath(folder, output)
        is_near = not inner.startswith("..") or Path(os.path.abspath(output)).is_relative_to(folder)
        lines += [
            f"[{split.name}]",
            f"annotations = {_quoted(f'{split.name}_coco.json')}",
            f"images = {_quoted(inner if is_near else folder)}",
        ]
    try:
        return "\n".join([*lines, ""]).encode()
    except UnicodeEncodeError:
        raise SourceError(
            "the folder of the images has a name that isn't UTF-8; rename it, or write into it with "
            "--output_dir"
        ) from None


def _quoted(text: str) -> str:
    """A TOML string; it escapes as JSON does, and one more character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class _Draft:
    """A split's files while they are made; `stack` gives them their names when it ends."""

    def __init__(
        self,
        split: Split,
        output: Path,
        dry_run: bool,
        stack: contextlib.ExitStack,
        class_name: str | None,
    ) -> None:
        self.split, self.class_name = split, class_name
        self.summary = Summary(split.name)
        folder = None if dry_run else output

        def result(name: str) -> Any:
            return stack.enter_context(_result_file(output / name, dry_run))

        self._table = result(f"{split.name}.problems.csv")
        self._table.write(HEAD)
        self._coco = result(f"{split.name}_coco.json")
        # An annotation's class id is known when all classes are.
        self._images, self._items = (
            stack.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 - it is one
            for _ in range(2)
        )
        self._classes: dict[str, int] = {}

    def fill(self, limit: int | None) -> None:
        """Reads the images, or the first ones."""
        seen: set[str] = set()
        total = self.split.count if limit is None else min(limit, self.split.count)
        with tqdm(total=total, desc=self.split.name, unit=" images", disable=None) as bar:
            for image in self.split.images:
                if image.file_name in seen:
                    detail = f"{image.file_name} was annotated before"
                    image.place.note("image annotated twice", detail, "the first one taken")
                else:
                    seen.add(image.file_name)
                    self._add(image)
                self._note_problems()
                bar.update()
                if self.summary.images == limit:
                    break
        self._note_problems()

    def _add(self, image: AnnotatedImage) -> None:
        summary = self.summary
        summary.images += 1
        width, height = image.size
        record = {"id": summary.images, "file_name": image.file_name}
        self._images.write(orjson.dumps(record | {"width": width, "height": height}) + b"\n")
        for item in image.items:
            with image.place.skipping("item skipped"):
                annotation = _annotation(item, (height, width))
                name = self.class_name or item.name
                place = self._classes.setdefault(name, len(self._classes))
                text = orjson.dumps({"image_id": summary.images, **annotation})
                self._items.write(b"%d %b\n" % (place, text))
                summary.items[name] += 1
                summary.boxes += not annotation["segmentation"]
            self._note_problems()

    def _note_problems(self) -> None:
        problems = self.split.problems
        if problems:
            self.summary.problems.update(problem.kind for problem in problems)
            self._table.write(as_csv(problems))
            problems.clear()

    def finish(self, ids: dict[str, int], origin: str) -> None:
        """Writes the COCO file from its parts."""
        head = {
            "info": {"description": f"{COCO_START[24:].decode()} from {origin}: {self.split.name}"},
            "licenses": [],
            "categories": [{"id": i, "name": name} for name, i in ids.items()],
        }
        class_ids = [ids[name] for name in self._classes]
        self._coco.write(orjson.dumps(head)[:-1] + b',\n"images":[')
        self._write_list(line.rstrip(b"\n") for line in _rewound(self._images))
        self._coco.write(b'],\n"annotations":[')
        lines = enumerate((line.rstrip(b"\n").split(b" ", 1) for line in _rewound(self._items)), 1)
        self._write_list(
            b'{"id":%d,"category_id":%d,%b' % (number, class_ids[int(place)], text[1:])
            for number, (place, text) in lines
        )
        self._coco.write(b"]}\n")

    def _write_list(self, records: Iterator[bytes]) -> None:
        """Writes JSON records, one on a line."""
        for number, record in enumerate(records):
            self._coco.write((b",\n" if number else b"\n") + record)


@contextlib.contextmanager
def _result_file(path: Path, dry_run: bool) -> Iterator[Any]:
    if dry_run:
        with open(os.devnull, "wb") as file:
            yield file
        return
    with replacing(path) as temporary, open(temporary, "wb") as file:
        yield file


def _rewound(file: Any) -> Any:
    file.seek(0)
    return file


def _annotation(item: Item, size: masks.Size) -> Record:
    """COCO's record without ids.

    Raises:
        Unusable: if it covers no pixel of the image, or is no mask or box of it.
    """
    if item.polygons is None and item.mask is None:
        return _box_annotation(item.box or [], size)
    rounded = [[round(v, DECIMALS) for v in polygon] for polygon in item.polygons or []]
    try:
        parts = masks.polygons(rounded, size)
        found = [masks.fill(parts, size)] if parts else []
    except ValueError as error:
        raise Unusable("bad polygon", str(error)) from None
    if item.mask is not None:
        found.append(item.mask)
    if not found:
        raise Unusable("bad polygon", "it has fewer than three points")
    mask = masks.union(found)
    if not masks.area(mask):
        raise Unusable("empty item", "it covers no pixel of the image")
    return {
        "bbox": masks.bounds(mask).tolist(),
        "area": masks.area(mask),
        "iscrowd": 0,
        "segmentation": masks.as_text(mask) if item.mask else parts,
    }


def _box_annotation(box: list[float], size: masks.Size) -> Record:
    x, y, w, h = box
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, size[1]), min(y + h, size[0])
    if not (x1 < x2 and y1 < y2):
        raise Unusable("empty item", f"its box {box} covers nothing of the image")
    rounded = [round(value, DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)]
    return {"bbox": rounded, "area": rounded[2] * rounded[3], "iscrowd": 0, "segmentation": []}
