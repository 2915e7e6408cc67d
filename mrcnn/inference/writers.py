"""The files of one image: overlay, label images, cut-outs, and the record of it all."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mrcnn.core.files import write_atomically
from mrcnn.render.colors import color_name
from mrcnn.render.drawing import color_for, draw_labels, draw_shapes
from mrcnn.render.html import image_uri

KINDS = ("overlay", "json", "csv", "masks", "cutouts", "html")
DEFAULT = ("overlay", "json", "csv", "html")
FORMATS = ("png", "jpg")
THUMBNAIL = 240  # pixels of the longer side


@dataclass(frozen=True)
class Outputs:
    """What is written.

    Attributes:
        save: some of `KINDS`.
        overlay_format: one of `FORMATS`.
        legend: whether overlays name the classes in a corner.
        pad: pixels around the garment in its cut-out, those outside the mask transparent.

    Raises:
        ValueError: if a value is none of these.
    """

    save: tuple[str, ...] = DEFAULT
    overlay_format: str = "png"
    legend: bool = False
    pad: int = 0

    def __post_init__(self):
        unknown = sorted(set(self.save) - set(KINDS))
        if unknown or not self.save:
            raise ValueError(f"can't save {unknown or 'nothing'}; choose from {', '.join(KINDS)}")
        if self.overlay_format not in FORMATS:
            raise ValueError(f"overlay format {self.overlay_format!r}; use {' or '.join(FORMATS)}")
        if self.pad < 0:
            raise ValueError(f"pad is {self.pad}; give 0 or more pixels")

    def settings(self):
        """What changes the files themselves, not which of them are written."""
        return [self.overlay_format, self.legend, self.pad]


def write_picture(result, output, folder, outputs):
    """Writes the files of one image.

    Args:
        result: `results.Result`.
        output: `listing.Picture.output`.
        folder: Path of the output folder.
        outputs: `Outputs`.

    Returns:
        dict: "files", relative to the folder; "thumbnail", a data: address or None; "width"
        and "height" of the image; "instances", the garments in COCO's results form without
        image_id, with "area" in pixels and "color", a name.
    """
    files: dict[str, bytes] = {}
    thumbnail = None
    if {"overlay", "html"} & set(outputs.save):
        drawn = draw_shapes(result)
        if "html" in outputs.save:  # before the labels, which nobody could read at this size
            thumbnail = image_uri(drawn, longest=THUMBNAIL, quality=70)
        if "overlay" in outputs.save:
            draw_labels(drawn, result, outputs.legend)
            files[f"{output}.{outputs.overlay_format}"] = _encoded(drawn, outputs.overlay_format)
    if "masks" in outputs.save:
        classes, instances = label_pictures(result)
        files[f"masks/{output}.classes.png"] = _encoded(classes)
        files[f"masks/{output}.instances.png"] = _encoded(instances)
    _write_all(folder, files)
    names = list(files)
    if "cutouts" in outputs.save:
        for i in range(len(result)):  # one by one: all at once may be much memory
            if not result.crop(i).size:
                continue
            name = f"cutouts/{output}.{i + 1}_{_part_of_name(result.names[i])}.png"
            _write_all(folder, {name: _encoded(cutout(result, i, outputs.pad))})
            names.append(name)
    height, width = result.size
    return {
        "files": names,
        "thumbnail": thumbnail,
        "width": width,
        "height": height,
        "instances": _instances(result),
    }


def _part_of_name(class_name):
    """A class name as part of a file name, which leaves 30 bytes for it (`listing.MAX_NAME`)."""
    return class_name.replace("/", "_").encode()[:30].decode(errors="ignore")


def _instances(result):
    rows = []
    for i, row in enumerate(result.to_coco()):
        del row["image_id"]
        crop = result.crop(i)
        row["area"] = int(np.count_nonzero(crop))
        row["color"] = color_name(result.image[result.window(i)][crop])
        rows.append(row)
    return rows


def label_pictures(result):
    """Images whose pixels are ids, with a palette to look at; best score on top.

    Returns:
        PIL images of class ids and of instance ids (1 for the best score), 0 where there is
        no garment.

    Raises:
        ValueError: if there are more instances or classes than a palette holds, 255.
    """
    highest = max(len(result), len(result.class_names) - 1)
    if highest > 255:
        raise ValueError(f"label images hold ids up to 255, not {highest}; save no masks")
    classes, instances = np.zeros((2, *result.size), np.uint8)
    for i in np.argsort(result.scores, kind="stable"):
        crop, window = result.crop(i), result.window(i)
        classes[window][crop] = result.class_ids[i]
        instances[window][crop] = i + 1
    return _with_palette(classes), _with_palette(instances)


def _with_palette(ids):
    picture = Image.fromarray(ids)
    colors = [(0, 0, 0), *(color_for(i) for i in range(1, 256))]
    picture.putpalette([value for color in colors for value in color])
    return picture


def cutout(result, i, pad=0):
    """Garment i on a transparent ground: PIL image of mode RGBA.

    Args:
        pad: pixels kept around its box, as far as the image goes.
    """
    y1, x1, y2, x2 = (int(v) for v in result.boxes[i])
    height, width = result.size
    top, left = max(0, y1 - pad), max(0, x1 - pad)
    bottom, right = min(height, y2 + pad), min(width, x2 + pad)
    alpha = np.zeros((bottom - top, right - left), np.uint8)
    alpha[y1 - top : y2 - top, x1 - left : x2 - left] = np.where(result.crop(i), 255, 0)
    # What can't be seen is not kept: a garment is cut out to be shown without its wearer.
    colors = result.image[top:bottom, left:right] * (alpha[..., None] > 0)
    return Image.fromarray(np.dstack([colors, alpha]))


def _encoded(picture, kind="png"):
    data = io.BytesIO()
    if kind == "png":
        # Pillow's own level, 6, takes four times as long for 10 % less.
        picture.save(data, "PNG", compress_level=1)
    else:
        picture.save(data, "JPEG", quality=92)
    return data.getvalue()


def _write_all(folder, files):
    for name, content in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
