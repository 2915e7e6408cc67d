"""How training images are varied: one affine map, one change of colours, blur and occlusion.

A `Policy` draws a `Variation` for each image; `mrcnn.data.scenes` applies it. The affine map joins
the one that brings the image to the network's size, so that the image is interpolated once,
and moves the polygons themselves. Colours change by one matrix, because brightness, contrast,
saturation, hue and tint all are matrices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from mrcnn.core.boxes import Shape
from mrcnn.core.image import ResizePlan, Window

# Shares of red, green and blue in what the eye sees as brightness (ITU-R BT.601).
LUMA = np.array([0.299, 0.587, 0.114])
MIDDLE_GREY = 127.5

Rng = np.random.Generator


class Hole(NamedTuple):
    """Something in front of the scene, an ellipse or a rectangle."""

    box: Window  # pixels
    colour: tuple[int, int, int]  # red, green, blue
    is_ellipse: bool


class Variation(NamedTuple):
    """What happens to one image."""

    flip: bool = False  # mirrored left to right, before `matrix`
    matrix: np.ndarray | None = None  # [2, 3] from the molded image to itself, continuous (x, y)
    colours: np.ndarray | None = None  # [3, 4], takes (red, green, blue, 1) in 0..255 to new ones
    blur: float = 0.0  # standard deviation of a Gaussian in pixels
    holes: Sequence[Hole] = ()
    paste: bool = False  # whether objects of another image are pasted in


PLAIN = Variation()


@dataclass(frozen=True)
class Policy:
    """The variations for garments on people; each number can be changed.

    Shares are probabilities, 0..1. Ranges (low, high) are drawn from evenly, scales
    logarithmically. Lengths are shares of the molded image's sides.

    Attributes:
        flip: share of images that are mirrored.
        move: share of images that are scaled, turned and shifted.
        scale: range of factors. angle: degrees either way. shift: of the sides, either way.
        zoom: share of images that are close-ups instead: enlarged by `zoom_scale` around a
            point that is `zoom_shift` (x, y) off the middle at most. It teaches portraits.
        colour: share of images whose light changes: `brightness` and `contrast` are factors
            of 1 plus or minus so much, as `saturation` is and `tint` of each channel; `hue` is in
            degrees either way.
        blur: share of images that are blurred, by up to `blur_sigma` pixels.
        occlusion: share of images with one to three rectangles or ellipses in front, with
            sides in the range `hole_side`. What they hide is no part of the masks.
        paste: share of images that get objects from another one (copy-paste,
            arXiv:2012.07177), from `paste_from` or the training data itself.
        paste_from: a prepared data set whose class names are among the training data's.
        paste_weights: float [images], > 0; images to paste from are taken in proportion to
            them. None takes all as often.
        paste_scale: range of factors on the image that objects are pasted from. paste_shift:
            how far, either way. They are mirrored and turned as all images are.
        recolour: share of objects that get other colours, in their masks only: the whole circle of
            hues, and twice the changes of light of `colour`. A garment's name isn't in its colour.
        min_visible: objects of which less than this share is left behind what is pasted or in
            front are dropped.
    """

    flip: float = 0.5
    move: float = 0.7
    scale: tuple[float, float] = (0.8, 1.25)
    angle: float = 8.0
    shift: float = 0.1
    zoom: float = 0.0
    zoom_scale: tuple[float, float] = (1.3, 2.8)
    zoom_shift: tuple[float, float] = (0.35, 0.7)
    colour: float = 0.6
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.3
    hue: float = 10.0
    tint: float = 0.06
    blur: float = 0.15
    blur_sigma: float = 1.5
    occlusion: float = 0.2
    hole_side: tuple[float, float] = (0.05, 0.25)
    paste: float = 0.0
    paste_from: Any = field(default=None, repr=False)
    paste_weights: Any = field(default=None, repr=False)
    paste_scale: tuple[float, float] = (0.4, 1.25)
    paste_shift: float = 0.25
    recolour: float = 0.0
    min_visible: float = 0.15

    def __post_init__(self) -> None:
        shares = ("flip", "move", "zoom", "colour", "blur", "occlusion", "paste", "recolour")
        for name in (*shares, "min_visible"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Policy: {name} is {getattr(self, name)}; pass a share, 0 to 1")
        for name in ("scale", "zoom_scale", "hole_side", "paste_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"Policy: {name} is {(low, high)}; pass 0 < low <= high")
        for name in ("brightness", "contrast", "saturation", "tint"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Policy: {name} is {getattr(self, name)}; pass 0 <= value < 1")
        if not self.hole_side[1] <= 1:
            raise ValueError(f"Policy: hole_side is {self.hole_side}; pass shares, 1 at most")
        for name in ("angle", "shift", "hue", "blur_sigma", "paste_shift"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Policy: {name} is {getattr(self, name)}; pass 0 or more")

    def draw(self, rng: Rng, shape: Shape) -> Variation:
        """A `Variation` for a molded image of shape (height, width, ...)."""
        flip = bool(rng.random() < self.flip)
        matrix = None
        if rng.random() < self.zoom:
            matrix = self._moved(rng, shape, self.zoom_scale, self.zoom_shift)
        elif rng.random() < self.move:
            matrix = self._moved(rng, shape, self.scale, (self.shift, self.shift))
        colours = self.draw_colours(rng) if rng.random() < self.colour else None
        blur = float(rng.uniform(0.3, self.blur_sigma)) if rng.random() < self.blur else 0.0
        holes = []
        if rng.random() < self.occlusion:
            holes = [self._hole(rng, shape) for _ in range(rng.integers(1, 4))]
        return Variation(flip, matrix, colours, blur, holes, bool(rng.random() < self.paste))

    def _moved(
        self,
        rng: Rng,
        shape: Shape,
        scales: tuple[float, float],
        shifts: tuple[float, float],
    ) -> np.ndarray:
        scale = math.exp(rng.uniform(*np.log(scales)))
        angle = math.radians(rng.uniform(-self.angle, self.angle))
        height, width = shape[:2]
        middle = np.array([width, height]) / 2
        turn = scale * np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        # Up to `shifts` of the new size: a close-up can show any part of the image.
        offset = rng.uniform(-1, 1, 2) * shifts * (width, height)
        return np.column_stack([turn, middle - turn @ middle + offset])

    def draw_colours(self, rng: Rng) -> np.ndarray:
        """float64 [3, 4]: a `Variation`'s colours."""
        gain = rng.uniform(1 - self.brightness, 1 + self.brightness)
        contrast = rng.uniform(1 - self.contrast, 1 + self.contrast)
        saturation = rng.uniform(1 - self.saturation, 1 + self.saturation)
        tint = rng.uniform(1 - self.tint, 1 + self.tint, 3)
        hue = math.radians(rng.uniform(-self.hue, self.hue))
        grey = np.tile(LUMA, (3, 1))
        mixed = _turned_about_grey(hue) @ (grey + saturation * (np.eye(3) - grey))
        mixed = gain * contrast * tint[:, None] * mixed
        return np.column_stack([mixed, np.full(3, MIDDLE_GREY * (1 - contrast))])

    def draw_dye(self, rng: Rng) -> np.ndarray:
        """float64 [3, 4]: the colours of an object that is recoloured."""
        wide = {k: min(0.9, 2 * getattr(self, k)) for k in ("brightness", "contrast", "saturation")}
        wider: Policy = replace(self, hue=180.0, **wide)
        return wider.draw_colours(rng)

    def _hole(self, rng: Rng, shape: Shape) -> Hole:
        height, width = shape[:2]
        rows, columns = (rng.uniform(*self.hole_side, 2) * (height, width)).astype(int).clip(1)
        y, x = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
        red, green, blue = rng.integers(0, 256, 3).tolist()
        box = (y, x, y + int(rows), x + int(columns))
        return Hole(box, (red, green, blue), bool(rng.random() < 0.5))


FLIP = Policy(move=0, colour=0, blur=0, occlusion=0)
DEFAULT = Policy(zoom=0.1)
ZOOM = Policy(zoom=0.4)
# For small data sets, which a network soon knows by heart.
STRONG = Policy(
    zoom=0.2,
    scale=(0.6, 1.6),
    angle=12.0,
    shift=0.15,
    colour=0.8,
    brightness=0.35,
    contrast=0.35,
    saturation=0.5,
    hue=15.0,
    tint=0.1,
    blur=0.2,
    occlusion=0.35,
)


def _turned_about_grey(angle: float) -> np.ndarray:
    """[3, 3]: turns colours about the axis of greys (Rodrigues' formula)."""
    axis = np.full(3, 1 / math.sqrt(3))
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return (
        math.cos(angle) * np.eye(3)
        + math.sin(angle) * cross
        + (1 - math.cos(angle)) * np.outer(axis, axis)
    )


def total_matrix(
    plan: ResizePlan,
    old_shape: Shape,
    shape: Shape,
    variation: Variation = PLAIN,
) -> np.ndarray:
    """The map from the stored image to the molded one: [2, 3], continuous (x, y).

    Args:
        old_shape: (height, width, ...) of the stored image; shape: of the molded one.
    """
    (height, width), (top, left) = plan.scaled, plan.window[:2]
    if plan.crop is not None:
        top, left = -plan.crop[0], -plan.crop[1]
    # By the true sizes: rounding them to pixels makes the two scales differ a little.
    matrix = np.array([[width / old_shape[1], 0, left], [0, height / old_shape[0], top]])
    if variation.flip:
        matrix = np.array([[-1, 0, shape[1]], [0, 1, 0]]) @ np.vstack([matrix, [0, 0, 1]])
    if variation.matrix is not None:
        matrix = variation.matrix @ np.vstack([matrix, [0, 0, 1]])
    return matrix.astype(np.float64)
