"""Data sets: which images there are, and the classes and masks of the objects in them.

Subclass `Dataset`, add classes and images, override `load_mask`; or read a COCO file with
`CocoDataset`. Call `prepare()` before use.

Letters in shapes: H, W height and width of the stored image; N objects in it.
"""

import os
import warnings

import numpy as np

from mrcnn.coco.reader import CocoFile
from mrcnn.core.classes import BACKGROUND, DEEPFASHION2, DEEPFASHION2_CATEGORY_IDS
from mrcnn.core.image import read_image
from mrcnn.data.outlines import from_coco

DEEPFASHION2_SOURCE = "deepfashion2"

# Every spelling of a garment that the annotation files or this package use -> category id.
_KNOWN_CATEGORY_IDS = DEEPFASHION2_CATEGORY_IDS | {
    name: index for index, name in enumerate(DEEPFASHION2) if name != BACKGROUND
}


class Dataset:
    """Images and classes, possibly of several sources, under consecutive internal ids.

    Attributes (all but the first two after `prepare()`; `class_map` must be None throughout):
        class_info: list of {"source", "id", "name"}; the background first, as internal id 0.
        image_info: list of {"id", "source", "path", ...what `add_image` was given}.
        num_classes, num_images: int, the background counts as a class.
        class_ids: int array [num_classes]. image_ids: int array [num_images].
        class_names: list of num_classes strings, "BG" first.
        sources: list of str, without the background's "".
        source_class_ids: dict of source -> list of its internal class ids, 0 included.
        image_from_source_map: dict of "source.id" -> internal image id.
    """

    def __init__(self, class_map=None):
        _refuse_class_map(class_map)
        self._image_ids = np.arange(0)
        self.image_info = []
        self.class_info = [{"source": "", "id": 0, "name": BACKGROUND}]
        self.source_class_ids = {}

    def add_class(self, source, class_id, class_name):
        """Adds a class, unless (source, class_id) was added before.

        Args:
            source: str, the collection that the id belongs to. A "." in it raises ValueError,
                because that separates it from ids in map keys.
            class_id: int, the class's id in that collection.
            class_name: str.
        """
        _check_source(source)
        known = ((entry["source"], entry["id"]) for entry in self.class_info)
        if (source, class_id) not in known:
            self.class_info.append({"source": source, "id": class_id, "name": class_name})

    def add_image(self, source, image_id, path, **kwargs):
        """Adds an image.

        Args:
            source: str without ".", as in `add_class`.
            image_id: int or str, the image's id in its source.
            path: str or Path of the file; None for a subclass that makes its images.
            **kwargs: kept beside these in `image_info`, for `load_mask` to use.
        """
        _check_source(source)
        self.image_info.append({"id": image_id, "source": source, "path": path, **kwargs})

    def prepare(self, class_map=None):
        """Numbers classes and images; call it once all are added, and again after adding more."""
        _refuse_class_map(class_map)
        self.num_classes = len(self.class_info)
        self.class_ids = np.arange(self.num_classes)
        # "traffic light, signal" -> "traffic light", as some lists put synonyms behind commas.
        self.class_names = [str(entry["name"]).split(",")[0] for entry in self.class_info]
        self.num_images = len(self.image_info)
        self._image_ids = np.arange(self.num_images)

        self.class_from_source_map = _source_map(self.class_info)
        self.image_from_source_map = _source_map(self.image_info)

        named = [entry["source"] for entry in self.class_info[1:] + self.image_info]
        self.sources = list(dict.fromkeys(named))
        self.source_class_ids = {source: [0] for source in self.sources}
        for internal_id, entry in enumerate(self.class_info[1:], start=1):
            self.source_class_ids[entry["source"]].append(internal_id)

    @property
    def image_ids(self):
        """int array [num_images]: the internal ids, 0, 1, 2, ..."""
        return self._image_ids

    def map_source_class_id(self, source_class_id):
        """Internal class id of "source.class_id", such as "deepfashion2.8"."""
        try:
            return self.class_from_source_map[source_class_id]
        except KeyError:
            known = ", ".join(self.class_from_source_map) or "none (call prepare())"
            raise KeyError(f"no class {source_class_id!r}; there are {known}") from None

    def get_source_class_id(self, class_id, source):
        """Id in `source` of the class with the internal id `class_id`."""
        entry = self.class_info[class_id]
        if entry["source"] != source:
            raise ValueError(f"class {class_id} ({entry['name']}) is of source {entry['source']!r}")
        return entry["id"]

    def source_image_link(self, image_id):
        """Path of the image (a subclass may give a web address)."""
        return self.image_info[image_id]["path"]

    def image_reference(self, image_id):
        """A word on where the image comes from, for debugging; "" unless overridden."""
        return ""

    def load_image(self, image_id):
        """Reads an image: uint8 [H, W, 3], RGB whatever the file holds.

        The EXIF rotation is not applied, because masks are drawn over the stored pixels.
        """
        return read_image(self.image_info[image_id]["path"], apply_exif=False)

    def load_mask(self, image_id):
        """Masks and classes of the objects in an image. Override it; this one knows of none.

        Returns:
            mask: bool [H, W, N], one channel an object; here [0, 0, 0].
            class_ids: int32 [N], internal ids; negative for crowds.
        """
        warnings.warn(
            f"{type(self).__name__} has no masks for image {image_id} "
            f"({self.image_info[image_id]['path']}); override load_mask()",
            stacklevel=2,
        )
        return np.empty((0, 0, 0), bool), np.empty(0, np.int32)

    def load_outlines(self, image_id):
        """The objects as `mrcnn.data.outlines` instead of masks, which is quicker; None without such.

        Returns:
            shapes: list of N `Polygons`, `Bitmap` or None.
            class_ids: int32 [N], as `load_mask` gives them.
        """
        return None

    def load_class_ids(self, image_id):
        """int32 [N], as `load_mask` gives them; override it where masks are slow to load."""
        return self.load_mask(image_id)[1]


class CocoDataset(Dataset):
    """Images and masks from a COCO instances file, such as `convert_to_coco.py` writes."""

    def load_coco(
        self, annotation_path, image_dir, class_names=None, limit=None, source=DEEPFASHION2_SOURCE
    ):
        """Adds the classes and images of a COCO file; call `prepare()` afterwards.

        Internal class ids follow the order of category ids. Images without objects stay in.

        Args:
            annotation_path: str or Path of the JSON file.
            image_dir: str or Path of the folder that the file names are relative to.
            class_names: categories to load, None for all; "BG" among them is ignored.
            limit: int, load only the first images by id; None for all.
            source: str without "."; the default demands DeepFashion2's ids of its garments.

        Raises:
            ValueError: for a file that is not COCO, unknown `class_names`, or categories that
                contradict DeepFashion2's.
        """
        content = CocoFile(annotation_path)
        _warn_of_losses(content, annotation_path)
        if source == DEEPFASHION2_SOURCE:
            _check_deepfashion2(content.categories, annotation_path)
        chosen = _choose_categories(content.categories, class_names, annotation_path)
        for entry in chosen:
            self.add_class(source, entry.id, entry.name)
        chosen_ids = None if class_names is None else [entry.id for entry in chosen]
        for position, entry in enumerate(content.images[:limit]):
            self.add_image(
                source,
                entry.id,
                os.path.join(image_dir, entry.file_name),
                width=entry.width,
                height=entry.height,
                annotations=content.annotations(position, chosen_ids),
            )

    def load_image(self, image_id):
        """Reads an image, and raises ValueError if the annotations are for another size."""
        image = super().load_image(image_id)
        info = self.image_info[image_id]
        if "annotations" in info and image.shape[:2] != (info["height"], info["width"]):
            raise ValueError(
                f"{info['path']} is {image.shape[1]}x{image.shape[0]} (width x height) but its "
                f"annotations are for {info['width']}x{info['height']}; restore the image or "
                "convert the annotations again"
            )
        return image

    def load_mask(self, image_id):
        """Masks and classes of the objects in an image, crowds with negative class ids."""
        info = self.image_info[image_id]
        if "annotations" not in info:  # added by hand, beside load_coco()
            return super().load_mask(image_id)
        height, width = info["height"], info["width"]
        annotations = list(info["annotations"])
        mask = np.zeros((height, width, len(annotations)), bool)
        for i, annotation in enumerate(annotations):
            mask[:, :, i] = _decode(annotation["segmentation"], height, width, info["path"])
        return mask, self._class_ids(info, annotations)

    def load_outlines(self, image_id):
        """As `Dataset.load_outlines`; None if a subclass has its own `load_mask`."""
        info = self.image_info[image_id]
        if "annotations" not in info or type(self).load_mask is not CocoDataset.load_mask:
            return None
        annotations = list(info["annotations"])
        shapes = [
            from_coco(annotation["segmentation"], info["height"], info["width"], info["path"])
            for annotation in annotations
        ]
        return shapes, self._class_ids(info, annotations)

    def load_class_ids(self, image_id):
        """int32 [N], as `load_mask` gives them, without decoding a mask."""
        info = self.image_info[image_id]
        if "annotations" not in info or type(self).load_mask is not CocoDataset.load_mask:
            return super().load_class_ids(image_id)
        return self._class_ids(info, info["annotations"])

    def _class_ids(self, info, annotations):
        if hasattr(annotations, "labels"):  # without parsing segmentations
            labels = annotations.labels()
        else:
            labels = [(entry["category_id"], entry["iscrowd"]) for entry in annotations]
        class_ids = np.zeros(len(labels), np.int32)
        for i, (category_id, is_crowd) in enumerate(labels):
            class_id = self.map_source_class_id(f"{info['source']}.{category_id}")
            class_ids[i] = -class_id if is_crowd else class_id
        return class_ids


def _check_source(source):
    if "." in source:
        raise ValueError(f"source is {source!r}; a source name must not contain '.'")


def _refuse_class_map(class_map):
    if class_map is not None:
        raise ValueError("class_map is not supported; choose the classes by add_class()")


def _source_map(entries):
    return {f"{entry['source']}.{entry['id']}": i for i, entry in enumerate(entries)}


def _warn_of_losses(content, path):
    if content.unusable:
        text = f"left out {content.unusable} annotations with neither an RLE nor a polygon of 3+ points"
        warnings.warn(f"{path}: {text}", stacklevel=3)
    if content.strays:
        text = f"left out {content.strays} annotations of images or categories that it doesn't have"
        warnings.warn(f"{path}: {text}", stacklevel=3)


def _check_deepfashion2(categories, path):
    """A label that is off by one trains without any error, so contradictions stop here."""
    advice = "; renumber the categories, or pass source='...' if these are not DeepFashion2's"
    for entry in categories:
        known = _KNOWN_CATEGORY_IDS.get(entry.name)
        if known not in (None, entry.id):
            raise ValueError(
                f"{path}: category {entry.name!r} has the id {entry.id} but DeepFashion2 "
                f"gives it {known}{advice}"
            )
    strangers = [entry.name for entry in categories if entry.name not in _KNOWN_CATEGORY_IDS]
    if len(categories) == len(DEEPFASHION2) - 1 and strangers:
        raise ValueError(f"{path}: {strangers} are not categories of DeepFashion2{advice}")


def _choose_categories(categories, class_names, path):
    if class_names is None:
        return categories
    wanted = set(class_names) - {BACKGROUND}
    unknown = wanted - {entry.name for entry in categories}
    if unknown:
        names = [entry.name for entry in categories]
        raise ValueError(f"{path} has no categories {sorted(unknown)}; it has {names}")
    return [entry for entry in categories if entry.name in wanted]


def _decode(segmentation, height, width, path):
    """bool [height, width] from polygons in pixels, or from a plain or compressed RLE."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, list):
        # pycocotools would read 4 numbers as a box.
        polygons = [points for points in segmentation if len(points) >= 6]
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    if tuple(rle["size"]) != (height, width):
        raise ValueError(f"an RLE of {path} is of size {rle['size']}, not {[height, width]}")
    return coco_mask.decode(rle).astype(bool)
