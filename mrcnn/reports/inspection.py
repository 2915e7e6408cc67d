"""A COCO instance-segmentation file to look at: counts, and images with their ground truth drawn.

`inspect_coco` writes a page, a contact sheet and the counts of `mrcnn/coco/statistics.py`, for
DeepFashion2's form or any other.

Boxes are [x, y, w, h], pixels of the image as stored.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mrcnn.coco.masks import decode
from mrcnn.coco.reader import PROBLEMS, CocoTable
from mrcnn.coco.selection import with_local_names
from mrcnn.coco.statistics import WORDS, mask_of, read_completed, statistics
from mrcnn.core.classes import BACKGROUND
from mrcnn.core.files import prepare_folder, replacing, write_atomically
from mrcnn.core.image import read_image
from mrcnn.core.text import cut, printable
from mrcnn.render.drawing import color_for, draw_instances
from mrcnn.render.html import image_uri, render

TILE = (320, 440)  # of the contact sheet: width and height in pixels that images must fit
SHEET_COLUMNS = 6
TERMINAL_CLASSES = 40
LONGEST = 40  # characters of a class name
MOST_BARS = 20
MOST_FAILURES = 20


@dataclass
class Sheet:
    """Images with their ground truth drawn.

    Attributes:
        tiles: (index of the image, [H, W, 3] uint8), sides up to `TILE`.
        failed: (file name, reason) of images that could not be drawn.
        classes: indices of the categories that the tiles show.
    """

    tiles: list[tuple[int, np.ndarray]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    classes: set[int] = field(default_factory=set)


def inspect_coco(
    annotation_path: str | Path,
    folders: Sequence[Path],
    output_folder: str | Path,
    title: str,
    limit: int | None = None,
    count: int = 24,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes `index.html`, `statistics.json` and `contact_sheet.png`.

    Args:
        annotation_path: the COCO file; its annotations may be missing.
        folders: where to look for the images; the first that has some of them is taken.
        output_folder: made if needed. The page needs none of the other files.
        title: of the page, such as the name of the split.
        limit: look at the first images by id only; None for all.
        count: images on the contact sheet.
        seed: of the choice of these images.

    Returns:
        The content of statistics.json: that of `statistics`, and annotation_file,
        picture_folder (None if no folder has the images), searched_folders, output_folder,
        limit, and sheet: seed, pictures (file names), failed (file, reason), classes_not_shown.

    Raises:
        ValueError: if the file is not a COCO instances file, or files of somebody else would be
            replaced in the folder.
    """
    table = with_local_names(read_completed(annotation_path, limit))
    names = ("index.html", "statistics.json", "contact_sheet.png")
    prepare_folder(Path(output_folder), names, "statistics.json", b'{\n "pictures": ')
    found = statistics(table)
    folder = next((f for f in folders if _has_images(f, table)), None)
    sheet = Sheet() if folder is None else contact_sheet(table, folder, count, seed)
    found |= {
        "annotation_file": _text(annotation_path),
        "picture_folder": None if folder is None else _text(folder),
        "searched_folders": [_text(f) for f in folders],
        "output_folder": _text(output_folder),
        "limit": limit,
        "sheet": {
            "seed": seed,
            "pictures": [table.images[i].file_name for i, _ in sheet.tiles],
            "failed": [{"file": name, "reason": _text(reason)} for name, reason in sheet.failed],
            "classes_not_shown": [
                entry["name"]
                for k, entry in enumerate(found["classes"])
                if entry["instances"] and k not in sheet.classes
            ],
        },
    }
    _write(Path(output_folder), table, found, sheet, _text(title))
    return found


def _text(path: object) -> str:
    """A path without the stand-ins for bytes that aren't UTF-8, which JSON can't hold."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _has_images(folder: Path, table: CocoTable) -> bool:
    """Whether the folder has at least one of the first ten images."""
    return any((Path(folder) / p.file_name).is_file() for p in table.images[:10])


def _write(
    output_folder: Path, table: CocoTable, found: dict[str, Any], sheet: Sheet, title: str
) -> None:
    page = render("inspect.html.j2", title=title, found=found, **_page_values(table, found, sheet))
    write_atomically(output_folder / "index.html", page.encode("utf-8"))
    text = msgspec.json.format(msgspec.json.encode(found), indent=1)
    write_atomically(output_folder / "statistics.json", text)
    path = output_folder / "contact_sheet.png"
    if sheet.tiles:
        captions = [cut(Path(table.images[i].file_name).name[-99:], 99) for i, _ in sheet.tiles]
        with replacing(path) as temporary:
            montage([tile for _, tile in sheet.tiles], captions).save(temporary, "PNG")
    else:
        path.unlink(missing_ok=True)  # one of an earlier run would show other images


def summary(found: Mapping[str, Any]) -> str:
    """What `inspect_coco` found, as text for the terminal."""
    crowds = f", {found['crowds']:,} crowds" if found["crowds"] else ""
    lines = [
        f"{printable(found['annotation_file'])}: {found['pictures']:,} images, "
        f"{found['pictures_without_instances']:,} of them without instances; "
        f"{found['instances']:,} instances{crowds}",
        f"{'id':>6}  {'class':24}{'instances':>10}{'share':>8}{'images':>10}",
    ]
    lines += [
        f"{c['id']:>6}  {cut(c['name'], LONGEST):24}{c['instances']:>10,}{c['share']:>8.1%}{c['pictures']:>10,}"
        for c in found["classes"][:TERMINAL_CLASSES]
    ]
    if len(found["classes"]) > TERMINAL_CLASSES:
        lines.append(f"        and {len(found['classes']) - TERMINAL_CLASSES} more on the page")
    if most := found["imbalance"]:
        lines.append(
            f"imbalance {most['ratio']:.0f}:1, {cut(most['largest'], LONGEST)} to {cut(most['smallest'], LONGEST)}"
        )
    for name, counts in found["attributes"].items():
        words = [f"{word} {counts[word]:,}" for word in _words_shown(name, counts)]
        lines.append(f"{name}: {', '.join(words) or 'n/a'}")
    lines += [f"problem: {count:,} {PROBLEMS[key]}" for key, count in found["problems"].items()]
    return "\n".join([*lines, *_sheet_lines(found)])


def _words_shown(name: str, counts: Mapping[str, int] | None) -> list[str]:
    """The words of an attribute, and "other" and "missing" if they occur."""
    return [word for word, n in (counts or {}).items() if n or word in WORDS[name]]


def _sheet_lines(found: Mapping[str, Any]) -> Iterator[str]:
    sheet, output_folder = found["sheet"], Path(found["output_folder"])
    if found["picture_folder"] is None:
        yield "no images found; give their folder with --images. Searched folders:"
        yield from (f"  {folder}" for folder in found["searched_folders"])
    if sheet["failed"]:
        last = " (no more were tried)" if len(sheet["failed"]) == MOST_FAILURES else ""
        yield f"{len(sheet['failed'])} images could not be drawn{last}:"
        yield from (f"  {printable(entry['reason'])}" for entry in sheet["failed"])
    count = len(sheet["pictures"])
    drawn = f", contact_sheet.png ({count} images)" if count else ""
    yield f"written: {output_folder / 'index.html'}, statistics.json{drawn}"


# --- The page ---------------------------------------------------------------------------------


def _page_values(table: CocoTable, found: Mapping[str, Any], sheet: Sheet) -> dict[str, Any]:
    """What the template needs besides the counts."""
    shown: dict[int, set[tuple[int, bool]]] = {image: set() for image, _ in sheet.tiles}
    for i, found_classes in shown.items():
        rows = slice(*table.offsets[i : i + 2])
        found_classes |= set(
            zip(table.classes[rows].tolist(), table.crowd[rows].tolist(), strict=True)
        )
    return {
        "most_failures": MOST_FAILURES,
        "problems": PROBLEMS,
        "charts": _charts(found),
        "attributes": {
            name: _words_shown(name, counts)
            for name, counts in found["attributes"].items()
            if counts
        },
        "colors": [
            "#{:02x}{:02x}{:02x}".format(*color_for(k + 1)) for k in range(len(table.categories))
        ],
        "tiles": [
            {
                "file": table.images[i].file_name,
                "image": image_uri(tile, quality=88),
                "width": tile.shape[1],
                "height": tile.shape[0],
                "classes": sorted(shown[i]),
            }
            for i, tile in sheet.tiles
        ],
    }


def _charts(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Histograms as title, note and bars of label, tick (left end, may be empty) and count."""
    boxes, areas = found["boxes"], found["areas"]
    pixels, share = areas["pixels"], areas["share_of_picture"]
    sides = pixels | {"edges": [e and e**0.5 for e in pixels["edges"]]}
    percent = share | {"edges": [100 * e for e in share["edges"]]}
    sizes = "COCO's sizes: {small:,} small, {medium:,} medium, {large:,} large".format(**areas)
    return [
        _whole_numbers("Instances per image", found["instances_per_picture"]),
        _whole_numbers("Polygons per instance", found["polygons_per_instance"]),
        _ranges("Box width", "pixels", boxes["width"]),
        _ranges("Box height", "pixels", boxes["height"]),
        _ranges("Box width : height", "below 1: taller than wide", boxes["aspect"]),
        _ranges("Mask area", f"side of a square of that area, in pixels. {sizes}", sides),
        _ranges("Relative mask area", "per cent of the image", percent),
    ]


def _ranges(title: str, note: str, histogram: Mapping[str, Any]) -> dict[str, Any]:
    edges = ["" if e is None else f"{e:g}" for e in histogram["edges"]]
    bars = [
        {"label": f"{low} to {high}" if high else f"{low} and more", "tick": low, "count": count}
        for low, high, count in zip(edges, edges[1:], histogram["counts"], strict=False)
    ]
    return {"title": title, "note": note, "bars": bars, "whole": False}


def _whole_numbers(title: str, occurrences: Mapping[str, int]) -> dict[str, Any]:
    """Bars for 0, 1, 2, ...; the last one holds all larger numbers."""
    counts = {int(k): v for k, v in occurrences.items()}
    last = min(max(counts, default=0), MOST_BARS)
    bars = [{"label": str(k), "tick": str(k), "count": counts.get(k, 0)} for k in range(last + 1)]
    if beyond := sum(count for k, count in counts.items() if k > last):
        bars.append({"label": f"{last + 1} and more", "tick": f"{last + 1}+", "count": beyond})
    return {"title": title, "note": "", "bars": bars, "whole": True}


# --- The contact sheet ------------------------------------------------------------------------


def contact_sheet(table: CocoTable, folder: Path, count: int, seed: int = 0) -> Sheet:
    """Draws `count` images so that each class appears if there is room, the rarest classes first.

    An image that can't be read is noted and replaced by another one, `MOST_FAILURES` times at
    most. The same seed chooses the same images.
    """
    sheet = Sheet()
    tried: set[int] = set()
    for image, wanted in _candidates(table, np.random.default_rng(seed)):
        if len(sheet.tiles) == count or len(sheet.failed) == MOST_FAILURES:
            break
        if image in tried or wanted in sheet.classes:
            continue
        tried.add(image)
        rows = np.arange(*table.offsets[image : image + 2])
        try:
            sheet.tiles.append((image, _draw(table, folder, image, rows)))
            sheet.classes |= set(table.classes[rows[~table.crowd[rows]]].tolist())
        except (OSError, ValueError) as error:
            sheet.failed.append((table.images[image].file_name, str(error)))
    return sheet


def _candidates(table: CocoTable, rng: np.random.Generator) -> Iterator[tuple[int, int | None]]:
    """(image, class to show with it): some of each class, rare ones first; then any."""
    by_class: dict[int, list[int]] = {}
    instances = np.stack([table.image, table.classes], axis=1)[~table.crowd]
    for image, category in np.unique(instances, axis=0).tolist():
        by_class.setdefault(category, []).append(image)
    for category in sorted(by_class, key=lambda k: (len(by_class[k]), k)):
        for image in rng.permutation(by_class[category])[:5].tolist():
            yield image, category
    is_empty = np.diff(table.offsets) == 0
    for group in (~is_empty, is_empty):
        for image in rng.permutation(np.flatnonzero(group)).tolist():
            yield image, None


def _draw(table: CocoTable, folder: Path, index: int, rows: np.ndarray) -> np.ndarray:
    """An image, shrunk to fit `TILE`, with the annotations of `rows`: [H, W, 3] uint8."""
    record = table.images[index]
    # Annotations are for the pixels as they are stored.
    image = read_image(Path(folder) / record.file_name, apply_exif=False)
    if image.shape[:2] != (record.height, record.width):
        raise ValueError(
            f"{Path(folder) / record.file_name} is {image.shape[1]} x {image.shape[0]} but "
            f"annotated as {record.width:g} x {record.height:g}"
        )
    # Drawn after shrinking, so that lines and names stay sharp.
    scale = min(1.0, TILE[0] / record.width, TILE[1] / record.height)
    size = (max(1, round(record.width * scale)), max(1, round(record.height * scale)))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    masks = np.zeros((size[1], size[0], len(rows)), bool)
    boxes = np.zeros((len(rows), 4))
    for i, row in enumerate(rows.tolist()):
        x, y, width, height = table.boxes[row]
        boxes[i] = np.array([y, x, y + height, x + width]) * scale
        if table.masked[row]:
            mask = Image.fromarray(255 * decode(mask_of(table, row)))
            masks[..., i] = np.asarray(mask.resize(size, Image.Resampling.BOX)) > 127
    names = [BACKGROUND, *(cut(c.name, LONGEST) for c in table.categories)]
    drawn: np.ndarray = draw_instances(small, boxes, masks, table.classes[rows] + 1, names)
    return drawn


def montage(tiles: Sequence[np.ndarray], captions: Iterable[str]) -> Image.Image:
    """Tiles [H, W, 3] uint8 with a line of text below each, in rows."""
    gap, line = 10, 18
    columns = min(SHEET_COLUMNS, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.shape[0] for tile in row) + line + gap for row in rows]
    cell = max(tile.shape[1] for tile in tiles) + gap
    canvas = Image.new("RGB", (columns * cell + gap, sum(heights) + gap), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for i, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        row, column = divmod(i, columns)
        x, y = gap + column * cell, gap + sum(heights[:row])
        canvas.paste(Image.fromarray(tile), (x, y))
        while font.getlength(caption) > cell - gap:
            caption = caption[1:]  # numbers stand at the end of a name
        pen.text((x, y + tile.shape[0] + 2), caption, font=font, fill=(70, 70, 70))
    return canvas
