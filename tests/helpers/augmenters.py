"""imgaug augmenters for tests."""

from typing import Any


def varied(zoom: float = 0.0) -> Any:
    """Mirrors, moves and recolours most images; a share `zoom` of them becomes close-ups."""
    from imgaug import augmenters as iaa

    places = {"x": (-0.35, 0.35), "y": (-0.7, 0.7)}
    enlarge = iaa.Affine(scale=(1.3, 2.8), translate_percent=places, rotate=(-8, 8))
    move = iaa.Affine(scale=(0.8, 1.25), translate_percent=(-0.1, 0.1), rotate=(-8, 8))
    colours = [iaa.Multiply((0.75, 1.25)), iaa.AddToHueAndSaturation((-10, 10))]
    geometry = iaa.Sometimes(zoom, enlarge, iaa.Sometimes(0.7, move))
    return iaa.Sequential([iaa.Fliplr(0.5), geometry, iaa.Sometimes(0.6, colours)])
