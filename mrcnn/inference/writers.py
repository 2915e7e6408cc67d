"""The files of one image: overlay, label images and cut-outs."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mrcnn.inference.folder import OutputFolder
from mrcnn.inference.names import FORMATS as FORMATS  # from here too
from mrcnn.inference.names import cutout_file, mask_files, overlay_file
from mrcnn.inference.results import Result
from mrcnn.render.drawing import (
    class_colors,
    color_for,
    draw_labels,
    draw_legend,
    draw_shapes,
    label_texts,
)
from mrcnn.render.html import image_uri

KINDS = ("overlay", "json", "csv", "masks", "cutouts", "html")
DEFAULT = ("overlay", "json", "csv", "html")
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

    def __post_init__(self) -> None:
        unknown = sorted(set(self.save) - set(KINDS))
        if unknown or not self.save:
            raise ValueError(f"can't save {unknown or 'nothing'}; choose from {', '.join(KINDS)}")
        if self.overlay_format not in FORMATS:
            raise ValueError(f"overlay format {self.overlay_format!r}; use {' or '.join(FORMATS)}")
        if self.pad < 0:
            raise ValueError(f"pad is {self.pad}; give 0 or more pixels")

    def settings(self) -> list[object]:
        """What changes the files themselves, not which of them are written."""
        return [self.overlay_format, self.legend, self.pad]


def write_image(
    result: Result, output: str, folder: OutputFolder, outputs: Outputs
) -> tuple[list[str], str | None]:
    """Writes the files of one image.

    Args:
        output: `listing.InputImage.output`.
        folder: the output folder.

    Returns:
        names of the files, relative to the folder, and the gallery's thumbnail as a data URL or
        None.

    Raises:
        OutputError: as `OutputFolder.write`.
    """
    files: dict[str, bytes] = {}
    thumbnail = None
    if {"overlay", "html"} & set(outputs.save):
        drawn = draw_result(result)
        if "html" in outputs.save:  # before the labels, which nobody could read at this size
            thumbnail = image_uri(drawn, longest=THUMBNAIL, quality=70)
        if "overlay" in outputs.save:
            label_result(drawn, result, outputs.legend)
            kind = outputs.overlay_format
            files[overlay_file(output, kind)] = _encoded(drawn, kind)
    if "masks" in outputs.save:
        files |= zip(mask_files(output), map(_encoded, label_images(result)), strict=True)
    for name, content in files.items():
        folder.write(name, content)
    names = list(files)
    if "cutouts" in outputs.save:
        for i in range(len(result)):  # one by one: all at once may be much memory
            if not result.crop(i).size:
                continue
            name = cutout_file(output, i + 1, result.names[i])
            folder.write(name, _encoded(cutout(result, i, outputs.pad)))
            names.append(name)
    return names, thumbnail


def draw_result(result: Result) -> Image.Image:
    """The image with fills, outlines and boxes of its garments, without labels."""
    return draw_shapes(result.image, result.boxes, result.crop, class_colors(result.class_ids))


def label_result(drawn: Image.Image, result: Result, legend: bool = False) -> None:
    """Adds the labels to what `draw_result` gave, in place."""
    texts = label_texts(result.class_ids, result.class_names, result.scores)
    draw_labels(drawn, result.boxes, texts, class_colors(result.class_ids))
    if legend:
        draw_legend(drawn, result.class_ids, result.class_names)


def label_images(result: Result) -> tuple[Image.Image, Image.Image]:
    """Images whose pixels are ids, with a palette to look at; best score on top.

    Returns:
        images of class ids and of instance ids (1 for the best score), 0 where there is no
        garment.

    Raises:
        ValueError: if there are more instances or classes than a palette holds, 255.
    """
    highest = max(len(result), len(result.class_names) - 1)
    if highest > 255:
        raise ValueError(f"label images hold ids up to 255, not {highest}; save no masks")
    classes, instances = np.zeros((2, *result.size), np.uint8)
    for i in np.argsort(result.scores, kind="stable").tolist():
        crop, window = result.crop(i), result.window(i)
        classes[window][crop] = result.class_ids[i]
        instances[window][crop] = i + 1
    return _with_palette(classes), _with_palette(instances)


def _with_palette(ids: np.ndarray) -> Image.Image:
    image = Image.fromarray(ids)
    colors = [(0, 0, 0), *(color_for(i) for i in range(1, 256))]
    image.putpalette([value for color in colors for value in color])
    return image


def cutout(result: Result, i: int, pad: int = 0) -> Image.Image:
    """Garment i on a transparent background, RGBA.

    Args:
        pad: pixels kept around its box, within the image.
    """
    y1, x1, y2, x2 = result.boxes[i].tolist()
    height, width = result.size
    top, left = max(0, y1 - pad), max(0, x1 - pad)
    bottom, right = min(height, y2 + pad), min(width, x2 + pad)
    alpha = np.zeros((bottom - top, right - left), np.uint8)
    alpha[y1 - top : y2 - top, x1 - left : x2 - left] = np.where(result.crop(i), 255, 0)
    # Transparent pixels lose their colours: a cut-out shows the garment without its wearer.
    colors = result.image[top:bottom, left:right] * (alpha[..., None] > 0)
    return Image.fromarray(np.dstack([colors, alpha]))


def _encoded(image: Image.Image, kind: str = "png") -> bytes:
    data = io.BytesIO()
    if kind == "png":
        # Pillow's default level, 6, takes four times as long for 10 % less.
        image.save(data, "PNG", compress_level=1)
    else:
        image.save(data, "JPEG", quality=92)
    return data.getvalue()
