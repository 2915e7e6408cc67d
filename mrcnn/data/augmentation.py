"""Augmenting an image and its masks with imgaug, which is imported only when it is used."""

import runpy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.core.files import PathLike
from mrcnn.data.policy import DEFAULT, FLIP, STRONG, ZOOM, Policy

# imgaug counts its random generators and switches prefetching in globals, so that threads in it
# at once could change each other's choices.
_LOCK = threading.Lock()

Augmenter = Any  # imgaug.augmenters.Augmenter

NAMED: dict[Any, Policy | None] = {
    "none": None,
    "flip": FLIP,
    "default": DEFAULT,
    "zoom": ZOOM,
    "strong": STRONG,
}


def make_augmentation(spec: PathLike) -> Policy | Augmenter | None:
    """What `--augment` names.

    Args:
        spec: "none"; "flip"; "default" (see `mrcnn.data.policy.Policy`); "zoom": the default with
            close-ups for two images in five; "strong": larger changes, for little data; or
            the path of a Python file that defines `augmentation`, an imgaug augmenter or a
            `Policy`, or a function that returns one.

    Returns:
        `Policy`, imgaug augmenter or None.

    Raises:
        ValueError: for another name, or a file that doesn't define what it should.
    """
    if spec in NAMED:
        return NAMED[spec]
    path = Path(spec)
    if path.suffix != ".py":
        raise ValueError(
            f"augment is {str(spec)!r}; use {', '.join(NAMED)} or the path of a Python file "
            "that defines `augmentation`"
        )
    if not path.is_file():
        raise ValueError(f"{path} does not exist; pass the path of a Python file")
    return _from_file(path)


def _from_file(path: Path) -> Policy | Augmenter:
    from imgaug import augmenters as iaa

    try:
        names = runpy.run_path(str(path))
        found = names.get("augmentation")
        kinds = (iaa.Augmenter, Policy)
        if callable(found) and not isinstance(found, kinds):
            found = found()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} fails: {type(error).__name__}: {error}") from error
    if not isinstance(found, kinds):
        raise ValueError(
            f"{path} has `augmentation` as {type(found).__name__}; define `augmentation`, an "
            "imgaug augmenter, a mrcnn.data.policy.Policy or a function that returns one"
        )
    if not isinstance(found, Policy):
        _refuse_blind_augmenters(found)
    return found


def check_augmentation(augmentation: Policy | Augmenter | None) -> None:
    """Raises what using it would: TypeError for what is no augmenter, ValueError for blind ones."""
    if not (augmentation is None or isinstance(augmentation, Policy)):
        _refuse_blind_augmenters(_checked(augmentation))


def seeded(augmentation: Augmenter, rng: np.random.Generator) -> Augmenter:
    """A copy of an imgaug augmenter whose choices follow from a numpy Generator alone."""
    augmentation = _checked(augmentation).deepcopy()
    augmentation.seed_(int(rng.integers(2**31)))
    return augmentation


def augment_with_masks(
    augmentation: Augmenter, image: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Applies an augmenter to an image and its masks in the same way.

    Whatever moves pixels moves those of the masks too, by nearest neighbours; augmenters of
    colour leave masks alone. An augmenter that imgaug knows too little about for that (own
    classes, `Lambda` without `func_segmentation_maps`) is refused.

    Args:
        augmentation: imgaug augmenter, possibly a nested container.
        image: uint8 [H, W, 3].
        mask: bool [H, W, N].

    Returns:
        image: uint8 [H, W, 3]. mask: bool [H, W, N].

    Raises:
        TypeError: if `augmentation` is no imgaug augmenter.
        ValueError: if it may move pixels without moving the masks, or changed the size.
    """
    augmented, packed = augment_packed(augmentation, image, _pack(mask))
    return augmented, _unpack(packed, mask.shape[-1])


def augment_packed(
    augmentation: Augmenter, image: np.ndarray, packed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `augment_with_masks`, for masks of a bit each: uint8 [H, W, n], n >= 1."""
    from imgaug.augmentables.segmaps import SegmentationMapsOnImage

    _refuse_blind_augmenters(_checked(augmentation))
    _repeat_masks_with_images(augmentation)
    segmap = SegmentationMapsOnImage(packed, shape=image.shape)
    with _LOCK:
        augmented, segmap = augmentation(image=image, segmentation_maps=segmap)
    if augmented.shape != image.shape or segmap.arr.shape[:2] != packed.shape[:2]:
        raise ValueError(
            f"augmentation changed the image's shape from {image.shape} to {augmented.shape}; "
            "use augmenters that keep it (keep_size=True)"
        )
    return augmented, segmap.get_arr()


def _pack(mask: np.ndarray) -> np.ndarray:
    """bool [H, W, N] -> uint8 [H, W, ceil(N / 8), at least 1]: a bit a mask.

    Values of segmentation maps are never mixed, so eight masks can travel in one channel.
    """
    packed = np.zeros((*mask.shape[:2], max(1, -(-mask.shape[-1] // 8))), np.uint8)
    for i in range(mask.shape[-1]):  # numpy.packbits is slow on short rows
        packed[:, :, i // 8] |= mask[:, :, i].astype(np.uint8) << np.uint8(i % 8)
    return packed


def _unpack(packed: np.ndarray, count: int) -> np.ndarray:
    return np.unpackbits(packed, axis=-1, count=count, bitorder="little").view(bool)


def _checked(augmentation: Augmenter) -> Augmenter:
    from imgaug import augmenters as iaa

    if not isinstance(augmentation, iaa.Augmenter):
        raise TypeError(
            f"augmentation is a {type(augmentation).__name__}; pass an imgaug augmenter, several "
            "of them as imgaug.augmenters.Sequential([...])"
        )
    return augmentation


def _all_of(augmentation: Augmenter) -> Iterator[Augmenter]:
    yield augmentation
    yield from augmentation.get_all_children(flat=True)


def _refuse_blind_augmenters(augmentation: Augmenter) -> None:
    for augmenter in _all_of(augmentation):
        if _is_blind(augmenter):
            raise ValueError(
                f"{type(augmenter).__name__} ({augmenter.name}) changes images but would not "
                "move their masks with them; give it a way to augment segmentation maps "
                "(Lambda: func_segmentation_maps; own classes: _augment_segmentation_maps or "
                "_augment_batch_), which may return them unchanged if only colours change"
            )


def _repeat_masks_with_images(augmentation: Augmenter) -> None:
    """Where an image is continued beyond its border by its mirror image, so are the masks.

    imgaug leaves them empty there: garments without a mask. The original mirrors them too.
    """
    for augmenter in _all_of(augmentation):
        if hasattr(augmenter, "_mode_segmentation_maps"):
            augmenter._mode_segmentation_maps = None  # imgaug's word for: as the image


def _is_blind(augmenter: Augmenter) -> bool:
    """Whether an augmenter may move an image's pixels but surely not those of its masks."""
    from imgaug import augmenters as iaa

    kind = type(augmenter)
    if isinstance(augmenter, iaa.Lambda):
        return bool(augmenter.func_images) and not augmenter.func_segmentation_maps
    if kind.__module__.startswith("imgaug."):
        # All of imgaug's own look after maps, or after colours only, but for this one.
        return kind.__name__ == "ElasticTransform"
    methods = ("_augment_batch_", "_augment_segmentation_maps")
    return all(getattr(kind, name) is getattr(iaa.Augmenter, name) for name in methods)
