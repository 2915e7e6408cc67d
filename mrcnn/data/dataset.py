"""Data sets: which images there are, and the classes and masks of the objects in them.

Subclass `Dataset`, add classes and images, override `load_mask`; or read a COCO file with
`CocoDataset`. Call `prepare()` before use.

Letters in shapes: H, W height and width of the stored image; N objects in it.
"""

import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mrcnn.coco.masks import decode, to_rle
from mrcnn.coco.reader import Category, CocoTable, ImageId, read_coco
from mrcnn.core.classes import BACKGROUND, DEEPFASHION2, DEEPFASHION2_CATEGORY_IDS
from mrcnn.core.image import read_image
from mrcnn.data.outlines import Shape, from_coco

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

    def __init__(self, class_map: None = None) -> None:
        _refuse_class_map(class_map)
        self._image_ids = np.arange(0)
        self.image_info: list[dict[str, Any]] = []
        self.class_info: list[dict[str, Any]] = [{"source": "", "id": 0, "name": BACKGROUND}]
        self.source_class_ids: dict[str, list[int]] = {}

    def add_class(self, source: str, class_id: int, class_name: str) -> None:
        """Adds a class, unless (source, class_id) was added before.

        Args:
            source: the collection that the id belongs to. A "." in it raises ValueError,
                because that separates it from ids in map keys.
            class_id: the class's id in that collection.
        """
        _check_source(source)
        known = ((entry["source"], entry["id"]) for entry in self.class_info)
        if (source, class_id) not in known:
            self.class_info.append({"source": source, "id": class_id, "name": class_name})

    def add_image(
        self,
        source: str,
        image_id: ImageId,
        path: str | os.PathLike[str] | None,
        **kwargs: Any,
    ) -> None:
        """Adds an image.

        Args:
            source: without ".", as in `add_class`.
            image_id: the image's id in its source.
            path: of the file; None for a subclass that makes its images.
            **kwargs: kept beside these in `image_info`, for `load_mask` to use.
        """
        _check_source(source)
        self.image_info.append({"id": image_id, "source": source, "path": path, **kwargs})

    def prepare(self, class_map: None = None) -> None:
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
    def image_ids(self) -> np.ndarray:
        """int array [num_images]: the internal ids, 0, 1, 2, ..."""
        return self._image_ids

    def map_source_class_id(self, source_class_id: str) -> int:
        """Internal class id of "source.class_id", such as "deepfashion2.8"."""
        try:
            return self.class_from_source_map[source_class_id]
        except KeyError:
            known = ", ".join(self.class_from_source_map) or "none (call prepare())"
            raise KeyError(f"no class {source_class_id!r}; there are {known}") from None

    def get_source_class_id(self, class_id: int, source: str) -> int:
        """Id in `source` of the class with the internal id `class_id`."""
        entry = self.class_info[class_id]
        if entry["source"] != source:
            raise ValueError(f"class {class_id} ({entry['name']}) is of source {entry['source']!r}")
        source_id: int = entry["id"]
        return source_id

    def source_image_link(self, image_id: int) -> Any:
        """Path of the image (a subclass may give a web address)."""
        return self.image_info[image_id]["path"]

    def image_reference(self, image_id: int) -> str:
        """A word on where the image comes from, for debugging; "" unless overridden."""
        return ""

    def load_image(self, image_id: int) -> np.ndarray:
        """Reads an image: uint8 [H, W, 3], RGB whatever the file holds.

        The EXIF rotation is not applied, because masks are drawn over the stored pixels.
        """
        return read_image(self.image_info[image_id]["path"], apply_exif=False)

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
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

    def load_outlines(self, image_id: int) -> tuple[list[Shape | None], np.ndarray] | None:
        """The objects as `mrcnn.data.outlines` instead of masks, which is quicker; None without such.

        Returns:
            shapes: list of N `Polygons`, `Bitmap` or None.
            class_ids: int32 [N], as `load_mask` gives them.
        """
        return None

    def load_class_ids(self, image_id: int) -> np.ndarray:
        """int32 [N], as `load_mask` gives them; override it where masks are slow to load."""
        return self.load_mask(image_id)[1]


def source_ids(dataset: Dataset) -> list[int] | None:
    """The ids that the source gives the classes, by class id, for results in its terms.

    None where they aren't different whole numbers, as with classes of several sources.
    """
    ids = [entry["id"] for entry in dataset.class_info]
    are_whole = all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in ids)
    return [int(i) for i in ids] if are_whole and len(set(ids[1:])) == len(ids) - 1 else None


class Annotations(Sequence[dict[str, Any]]):
    """The annotations of one image: dicts of category_id, iscrowd and segmentation.

    segmentation is what the file holds: a list of polygons [x1, y1, ...] in pixels, or an RLE. It
    is parsed each time that it is asked for.
    """

    __slots__ = ("_rows", "_table")

    def __init__(self, table: CocoTable, rows: range) -> None:
        self._table = table
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        row = self._rows[index]
        if isinstance(row, range):
            return list(Annotations(self._table, row))
        return {
            "category_id": self._table.categories[self._table.classes[row]].id,
            "iscrowd": int(self._table.crowd[row]),
            "segmentation": self._table.segmentation(row),
        }

    def labels(self) -> list[tuple[int, bool]]:
        """(category_id, iscrowd) of each, without parsing a segmentation."""
        rows = slice(self._rows.start, self._rows.stop)
        pairs = zip(self._table.classes[rows], self._table.crowd[rows].tolist(), strict=True)
        return [(self._table.categories[k].id, is_crowd) for k, is_crowd in pairs]


class CocoDataset(Dataset):
    """Images and masks from COCO instances files, such as `convert_to_coco.py` writes.

    Attributes:
        tables: the `CocoTable` of each file loaded, whole, in the order of loading. Pass it to
            what else needs the file's content.
    """

    def __init__(self, class_map: None = None) -> None:
        super().__init__(class_map)
        self.tables: list[CocoTable] = []

    def load_coco(
        self,
        annotations: str | os.PathLike[str] | CocoTable,
        image_dir: str | os.PathLike[str],
        class_names: Collection[str] | None = None,
        limit: int | None = None,
        source: str = DEEPFASHION2_SOURCE,
    ) -> None:
        """Adds the classes and images of a COCO file; call `prepare()` afterwards.

        Internal class ids follow the order of category ids. Images without objects stay in.

        Args:
            annotations: the JSON file, or what `reader.read_coco` made of it.
            image_dir: the folder that the file names are relative to.
            class_names: categories to load, None for all; "BG" among them is ignored.
            limit: load only the first images by id; None for all.
            source: name without "."; the default demands DeepFashion2's ids of its garments.

        Raises:
            ValueError: for a file that is not COCO, unknown `class_names`, or categories that
                contradict DeepFashion2's.
        """
        whole = read_coco(annotations)
        needs = ("annotations", "categories", "file_name", "width", "height", "unique ids")
        whole.require(*needs)
        _warn_of_losses(whole)
        if source == DEEPFASHION2_SOURCE:
            check_deepfashion2(whole.categories, whole.name)
        chosen = _choose_categories(whole.categories, class_names, whole.name)
        for category in chosen:
            self.add_class(source, category.id, category.name)
        wanted = [k for k, category in enumerate(whole.categories) if category in chosen]
        table = whole.take(whole.usable & np.isin(whole.classes, wanted)).first(limit)
        ends = table.offsets.tolist()
        for position, entry in enumerate(table.images):
            height, width = entry.size
            self.add_image(
                source,
                entry.id,
                os.path.join(image_dir, entry.file_name),
                width=width,
                height=height,
                annotations=Annotations(table, range(ends[position], ends[position + 1])),
            )
        self.tables.append(whole)

    def load_image(self, image_id: int) -> np.ndarray:
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

    def load_mask(self, image_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks and classes of the objects in an image, crowds with negative class ids."""
        info = self.image_info[image_id]
        if "annotations" not in info:  # added by hand, beside load_coco()
            return super().load_mask(image_id)
        annotations = list(info["annotations"])
        size = (info["height"], info["width"])
        mask = np.zeros((*size, len(annotations)), bool)
        with _naming(info["path"]):
            for i, annotation in enumerate(annotations):
                mask[:, :, i] = decode(to_rle(annotation["segmentation"], size))
        return mask, self._class_ids(info, annotations)

    def load_outlines(self, image_id: int) -> tuple[list[Shape | None], np.ndarray] | None:
        """As `Dataset.load_outlines`; None if a subclass has its own `load_mask`."""
        info = self.image_info[image_id]
        if "annotations" not in info or type(self).load_mask is not CocoDataset.load_mask:
            return None
        annotations = list(info["annotations"])
        size = (info["height"], info["width"])
        with _naming(info["path"]):
            shapes = [from_coco(entry["segmentation"], size) for entry in annotations]
        return shapes, self._class_ids(info, annotations)

    def load_class_ids(self, image_id: int) -> np.ndarray:
        """int32 [N], as `load_mask` gives them, without decoding a mask."""
        info = self.image_info[image_id]
        if "annotations" not in info or type(self).load_mask is not CocoDataset.load_mask:
            return super().load_class_ids(image_id)
        return self._class_ids(info, info["annotations"])

    def _class_ids(self, info: dict[str, Any], annotations: Sequence[dict[str, Any]]) -> np.ndarray:
        if isinstance(annotations, Annotations):
            labels = annotations.labels()
        else:
            labels = [(entry["category_id"], entry["iscrowd"]) for entry in annotations]
        class_ids = np.zeros(len(labels), np.int32)
        for i, (category_id, is_crowd) in enumerate(labels):
            class_id = self.map_source_class_id(f"{info['source']}.{category_id}")
            class_ids[i] = -class_id if is_crowd else class_id
        return class_ids


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Has the image's path in what is said of a broken mask."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"an annotation of {path}: {error}") from None


def _check_source(source: str) -> None:
    if "." in source:
        raise ValueError(f"source is {source!r}; a source name must not contain '.'")


def _refuse_class_map(class_map: Any) -> None:
    if class_map is not None:
        raise ValueError("class_map is not supported; choose the classes by add_class()")


def _source_map(entries: list[dict[str, Any]]) -> dict[str, int]:
    return {f"{entry['source']}.{entry['id']}": i for i, entry in enumerate(entries)}


def _warn_of_losses(table: CocoTable) -> None:
    unusable = int((~table.usable).sum())
    if unusable:
        text = f"left out {unusable} annotations with neither an RLE nor a polygon of 3+ points"
        warnings.warn(f"{table.name}: {text}", stacklevel=3)
    strays = sum(
        table.problems[f"annotations_of_unknown_{what}"] for what in ("pictures", "categories")
    )
    if strays:
        text = f"left out {strays} annotations of images or categories that it doesn't have"
        warnings.warn(f"{table.name}: {text}", stacklevel=3)


def has_garments(categories: list[Category]) -> bool:
    """Whether these are the 13 garments of DeepFashion2, by name."""
    names = {entry.name for entry in categories}
    return len(names) == len(DEEPFASHION2) - 1 and names <= set(_KNOWN_CATEGORY_IDS)


def check_deepfashion2(categories: list[Category], path: str) -> None:
    """Raises ValueError if garments have other ids than DeepFashion2's.

    A label that is off by one trains without any error, so contradictions stop here.
    """
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


def _choose_categories(
    categories: list[Category], class_names: Collection[str] | None, path: str
) -> list[Category]:
    if class_names is None:
        return categories
    wanted = set(class_names) - {BACKGROUND}
    unknown = wanted - {entry.name for entry in categories}
    if unknown:
        names = [entry.name for entry in categories]
        raise ValueError(f"{path} has no categories {sorted(unknown)}; it has {names}")
    return [entry for entry in categories if entry.name in wanted]
