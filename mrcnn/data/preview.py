"""A sheet of training images as the network sees them, to be looked at before training."""

import math
import os
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mrcnn.core.files import PathLike, replacing
from mrcnn.core.image import expand_mask
from mrcnn.data.loader import BatchLoader
from mrcnn.render.drawing import draw_instances

TILE = 480
_GAP, _CAPTION = 6, 18


def preview(loader: BatchLoader, count: int, path: PathLike, epoch: int = 0) -> None:
    """Writes a PNG sheet of samples with boxes, masks and labels.

    The samples are the first of an epoch: resized, varied, molded and back, with masks expanded
    from the mini-masks that training gets.

    Raises:
        ValueError: if count is below 1.
        RuntimeError: naming an image that cannot be loaded.
    """
    if count < 1:
        raise ValueError(f"preview() got count {count}; pass 1 or more")
    tiles = [_tile(image, caption) for image, caption in samples(loader, count, epoch)]
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new(
        "RGB", (columns * (TILE + _GAP) + _GAP, rows * (TILE + _CAPTION + _GAP) + _GAP)
    )
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        sheet.paste(tile, (_GAP + column * (TILE + _GAP), _GAP + row * (TILE + _CAPTION + _GAP)))
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")


def samples(loader: BatchLoader, count: int, epoch: int = 0) -> Iterator[tuple[np.ndarray, str]]:
    """Yields (uint8 [H, W, 3] with the objects drawn, caption) of `count` images."""
    dataset, config = loader.dataset, loader.config
    names = list(dataset.class_names)
    names += [f"{name} (crowd)" for name in names]
    steps = math.ceil(count / loader.images_per_step)
    given = 0
    for batch in loader.epoch(epoch, steps):
        images, metas, *_, all_class_ids, all_boxes, all_masks = batch
        for molded, meta, class_ids, boxes, masks in zip(
            images, metas, all_class_ids, all_boxes, all_masks, strict=True
        ):
            if given == count:
                return
            given += 1
            image = np.rint(molded + np.asarray(config.MEAN_PIXEL)).clip(0, 255).astype(np.uint8)
            real = class_ids != 0
            class_ids, boxes, masks = class_ids[real], boxes[real], masks[:, :, real]
            if config.USE_MINI_MASK:
                masks = expand_mask(boxes, masks, image.shape)
            # A crowd's id is negative; its name stands in the second half.
            shown = np.where(class_ids < 0, dataset.num_classes - class_ids, class_ids)
            path = dataset.image_info[int(meta[0])]["path"]
            yield draw_instances(image, boxes, masks, shown, names), os.path.basename(str(path))


def _tile(image: np.ndarray, caption: str) -> Image.Image:
    """An image of TILE x TILE at most over its caption."""
    tile = Image.new("RGB", (TILE, TILE + _CAPTION), (40, 40, 40))
    small = Image.fromarray(image)
    small.thumbnail((TILE, TILE))
    tile.paste(small, ((TILE - small.width) // 2, (TILE - small.height) // 2))
    font = ImageFont.load_default(12)
    ImageDraw.Draw(tile).text((4, TILE + 2), caption, font=font, fill=(235, 235, 235))
    return tile
