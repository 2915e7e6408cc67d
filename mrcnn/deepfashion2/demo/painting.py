"""Paints the scenes of `scenes.py`: backdrops, people, cloth with its print, folds and seams.

Shapes are shapely geometries in pixels of the image; x to the right, y down. Boxes here are
(x1, y1, x2, y2), whole pixels, x2 and y2 exclusive. Colours are RGB, 0..1, but for Pillow's.
"""

import colorsys
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFilter

from mrcnn.deepfashion2.demo.garments import BOTTOMS, OUTWEAR, Place, Points

if TYPE_CHECKING:
    from mrcnn.deepfashion2.demo.scenes import Garment, Layers, Scene

# Categories that are drawn in a way of their own.
SLINGS, JEANS = (6, 13), (7, 8)
SKINS = (
    (0.96, 0.84, 0.75),
    (0.90, 0.74, 0.62),
    (0.80, 0.60, 0.47),
    (0.62, 0.43, 0.31),
    (0.42, 0.28, 0.21),
)
HAIRS = (
    (0.14, 0.11, 0.10),
    (0.28, 0.18, 0.12),
    (0.47, 0.31, 0.18),
    (0.75, 0.60, 0.36),
    (0.6, 0.6, 0.6),
)
# How the second colour of a cloth lies on the first, and how often.
PRINTS = {"plain": 10, "bars": 3, "stripes": 1.5, "checks": 2, "dots": 1.5, "print": 4}
NOISE_SIZE = 1024  # at least an image's longer side

Rng = np.random.Generator
Box = tuple[int, int, int, int]
Color = tuple[float, float, float]


def draw(scene: "Scene", below: "Layers", above: "Layers", rng: Rng) -> Image.Image:
    """The RGB image of a scene, with what lies under the garments and above all else."""
    canvas = backdrop(scene.size, rng)
    colors = materials(rng)
    for material, shape in below:
        paint(canvas, shape, colors[material], rng)
    for garment in scene.garments:
        cast_shadow(canvas, garment.shape, 0.45 if scene.viewpoint == 1 else 0.25)
        draw_garment(canvas, garment, scene, rng)
    for material, shape in [*scene.covers, *above]:
        paint(canvas, shape, colors[material], rng)
    return grain(canvas, rng)


def materials(rng: Rng) -> dict[str, np.ndarray]:
    """Colours of all but the cloth."""
    skin = np.array(SKINS[rng.integers(len(SKINS))])
    return {
        "skin": skin,
        "lips": skin * (0.85, 0.6, 0.6),
        "eyes": np.array((0.12, 0.1, 0.1)),
        "hair": np.array(HAIRS[rng.integers(len(HAIRS))]),
        "shoes": rng.uniform(0.05, 0.95, 3) * rng.uniform(0.3, 1),
        "bag": rng.uniform(0.1, 0.8, 3),
    }


# Noise and backdrops


@cache
def noise(bump_height: int, bump_width: int) -> np.ndarray:
    """[NOISE_SIZE, NOISE_SIZE] float32, smooth, standard deviation 1; bumps in pixels."""
    size = (NOISE_SIZE // bump_height + 1, NOISE_SIZE // bump_width + 1)
    grid = np.random.default_rng(size).standard_normal(size, np.float32)
    bumps = Image.fromarray(grid).resize((NOISE_SIZE, NOISE_SIZE), Image.Resampling.BICUBIC)
    whole = np.asarray(bumps)
    return np.asarray(whole / whole.std())


def noise_window(bumps: tuple[int, int], height: int, width: int, rng: Rng) -> np.ndarray:
    """A window [height, width] of `noise` at a random place."""
    y, x = rng.integers(NOISE_SIZE - height + 1), rng.integers(NOISE_SIZE - width + 1)
    return noise(*bumps)[y : y + height, x : x + width]


def backdrop(size: tuple[int, int], rng: Rng) -> Image.Image:
    """Wall and floor, a gradient, or blurred blobs, with a texture."""
    width, height = size
    grey, tint = rng.uniform(0.2, 0.85, (2, 1, 1)), rng.uniform(-0.35, 0.35, (2, 1, 3))
    top, bottom = grey + tint * rng.random()
    y = np.linspace(0, 1, 80)[:, np.newaxis]
    style = rng.integers(3)
    share = y if style != 1 else y > rng.uniform(0.6, 0.85)
    small = Image.fromarray(
        to_bytes(np.repeat((top + (bottom - top) * share)[:, np.newaxis], 60, axis=1))
    )
    if style == 2:
        clutter(small, rng)
    canvas = small.resize(size, Image.Resampling.BICUBIC)
    if style == 1 and rng.random() < 0.6:
        tiles(canvas, rng)
    bumps = ((2, 2), (4, 4), (40, 60), (6, 90), (90, 6))[rng.integers(5)]
    texture = noise_window(bumps, height, width, rng) * np.float32(rng.uniform(3, 13))
    return Image.fromarray(add(canvas, texture[..., np.newaxis]))


def clutter(small: Image.Image, rng: Rng) -> None:
    """Blobs and boxes out of focus, drawn in place."""
    pen = ImageDraw.Draw(small)
    for _ in range(rng.integers(6, 18)):
        x, y, w, h = rng.integers((-10, -10, 5, 5), (60, 80, 30, 40)).tolist()
        form = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        form((x, y, x + w, y + h), fill=tuple(rng.integers(20, 240, 3).tolist()))
    small.paste(small.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3))))


def tiles(canvas: Image.Image, rng: Rng) -> None:
    """Joints of tiles or planks, drawn in place."""
    pen, step = ImageDraw.Draw(canvas), rng.uniform(30, 110)
    fill = tuple(rng.integers(60, 200, 3).tolist())
    for x in np.arange(rng.uniform(0, step), canvas.width, step).tolist():
        pen.line((x, 0, x, canvas.height), fill=fill)
    rows = np.arange(rng.uniform(0, step), canvas.height, step * rng.uniform(0.4, 1))
    for y in rows.tolist():
        pen.line((0, y, canvas.width, y), fill=fill)


def grain(canvas: Image.Image, rng: Rng) -> Image.Image:
    """The image with a camera's noise, light and contrast."""
    fine = noise_window((1, 1), canvas.height, canvas.width, rng) * np.float32(rng.uniform(1, 5))
    return Image.fromarray(add(canvas, fine[..., np.newaxis] + np.float32(rng.uniform(-14, 14))))


def add(canvas: Image.Image, values: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8: an image plus float values."""
    return np.asarray(np.clip(np.asarray(canvas, np.float32) + values, 0, 255)).astype(np.uint8)


def to_bytes(colors: np.ndarray) -> np.ndarray:
    """0..1 -> uint8."""
    return np.asarray(np.clip(colors, 0, 1) * 255).astype(np.uint8)


# Shapes


def stencil(shape: Any, size: tuple[int, int]) -> tuple[Image.Image, Box] | None:
    """A shape as (mask with smooth edges, box); None outside the image."""
    if shape.is_empty:
        return None
    x1, y1, x2, y2 = np.array(shape.bounds)
    x1, y1 = max(int(np.floor(x1)), 0), max(int(np.floor(y1)), 0)
    x2, y2 = min(int(np.ceil(x2)), size[0]), min(int(np.ceil(y2)), size[1])
    if x1 >= x2 or y1 >= y2:
        return None
    mask = Image.new("L", (2 * (x2 - x1), 2 * (y2 - y1)))
    pen = ImageDraw.Draw(mask)
    for part in shapely.get_parts(shape):
        for ring, fill in [(part.exterior, 255), *((hole, 0) for hole in part.interiors)]:
            # Pillow's coordinates mean middles of pixels.
            points = (shapely.get_coordinates(ring) - (x1, y1)) * 2 - 0.5
            pen.polygon(points.ravel().tolist(), fill=fill)
    return mask.reduce(2), (x1, y1, x2, y2)


def paint(canvas: Image.Image, shape: Any, color: np.ndarray, rng: Rng) -> None:
    """Fills a shape with a shaded colour, in place."""
    seen = stencil(shape, canvas.size)
    if seen:
        mask, box = seen
        light = shading(mask, 0.03, rng)[..., np.newaxis]
        canvas.paste(Image.fromarray(to_bytes(light * np.float32(color))), box, mask)


def shading(mask: Image.Image, folds: float, rng: Rng) -> np.ndarray:
    """[h, w] float32, about 1: darker at the rim, light from one side, folds."""
    width, height = mask.size
    reach = max(2, min(width, height) // 24)
    small = mask.reduce(min(reach, width, height)).filter(ImageFilter.GaussianBlur(2))
    rim = np.asarray(small.resize(mask.size, Image.Resampling.BILINEAR), np.float32)
    side = np.linspace(-0.08, 0.08, width, dtype=np.float32) * (1 if rng.random() < 0.5 else -1)
    light = 0.70 + rim * np.float32(0.3 / 255) + side
    for bumps, strength in (((80, 13), folds), ((40, 32), folds / 2)):
        light += noise_window(bumps, height, width, rng) * np.float32(strength)
    return np.asarray(light)


def cast_shadow(canvas: Image.Image, shape: Any, strength: float) -> None:
    """Darkens what lies around a shape, in place."""
    small = Image.new("L", (canvas.width // 8, canvas.height // 8))
    pen = ImageDraw.Draw(small)
    for part in shapely.get_parts(shape):
        pen.polygon(((shapely.get_coordinates(part.exterior) + 5) / 8).ravel().tolist(), fill=255)
    soft = small.filter(ImageFilter.GaussianBlur(1)).resize(canvas.size, Image.Resampling.BILINEAR)
    canvas.paste((0, 0, 0), (0, 0), soft.point(lambda value: int(value * strength)))


# Cloth


class Cloth(NamedTuple):
    color: Color
    second: Color
    print: str  # one of PRINTS, or "denim"
    period: float  # of the print, head heights


def draw_color(rng: Rng) -> Color:
    """A colour; clothes are often dull, dark or pale."""
    if rng.random() < 0.35:
        grey = rng.choice([0.08, 0.15, 0.3, 0.5, 0.75, 0.9, 0.96])
        red, green, blue = (grey * rng.uniform(0.92, 1.0, 3)).tolist()
        return red, green, blue
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.25, 0.9), rng.uniform(0.25, 0.95))


def draw_cloth(category_id: int, rng: Rng) -> Cloth:
    color, second, period = draw_color(rng), draw_color(rng), rng.uniform(0.14, 0.45)
    if category_id in JEANS and rng.random() < 0.4:
        indigo = colorsys.hsv_to_rgb(0.6, rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.75))
        return Cloth(indigo, (1.0, 1.0, 1.0), "denim", period)
    if sum(abs(a - b) for a, b in zip(color, second, strict=True)) < 0.6:
        red, green, blue = (c - 0.4 if c > 0.5 else c + 0.4 for c in color)
        second = red, green, blue
    shares = np.array(list(PRINTS.values()))
    return Cloth(color, second, rng.choice(list(PRINTS), p=shares / shares.sum()), period)


def draw_garment(canvas: Image.Image, garment: "Garment", scene: "Scene", rng: Rng) -> None:
    """A garment's cloth, seams and lining, in place."""
    seen = stencil(garment.shape, canvas.size)
    if not seen:
        return
    mask, box = seen
    clothing = garment.clothing
    cloth = draw_cloth(clothing.category_id, np.random.default_rng(clothing.cloth))
    light = shading(mask, 0.055, rng)[..., np.newaxis]
    patch = Image.fromarray(to_bytes(printed(cloth, garment.place, box, rng) * light))
    sew(patch, garment, cloth, box, scene)
    canvas.paste(patch, box, mask)


def printed(cloth: Cloth, place: Place, box: Box, rng: Rng) -> np.ndarray:
    """[h, w, 3] float32: the cloth's colours under even light."""
    x1, y1, x2, y2 = box
    x = (np.arange(x1, x2, dtype=np.float32) - np.float32(place.offset.real))[np.newaxis]
    y = (np.arange(y1, y2, dtype=np.float32) - np.float32(place.offset.imag))[:, np.newaxis]
    # Image frame -> periods of the print, along with the garment.
    inverse = np.complex64(1 / (place.turn * cloth.period))
    across = (x * inverse.real - y * inverse.imag) / np.float32(place.squeeze)
    down = x * inverse.imag + y * inverse.real
    height, width = y2 - y1, x2 - x1
    shares: dict[str, Callable[[], np.ndarray]] = {
        "plain": lambda: np.zeros((1, 1), np.float32),
        "bars": lambda: square(down),
        "stripes": lambda: square(1.6 * across),
        "checks": lambda: (square(across) + square(down)) / 2,
        "dots": lambda: np.clip(6 - 26 * np.hypot(across % 1 - 0.5, down % 1 - 0.5), 0, 1),
        "print": lambda: np.clip(3 * noise_window((18, 18), height, width, rng) - 1.5, 0, 1),
        "denim": lambda: 0.12 + 0.06 * noise_window((3, 1), height, width, rng),
    }
    share = shares[cloth.print]()
    color, second = np.array([cloth.color, cloth.second], np.float32)
    return np.asarray(color + share[..., np.newaxis] * (second - color))


def square(periods: np.ndarray) -> np.ndarray:
    """Half of each period 0, half 1, with soft steps."""
    return np.clip(0.5 + 5 * np.sin(periods * np.float32(2 * np.pi)), 0, 1)


def sew(patch: Image.Image, garment: "Garment", cloth: Cloth, box: Box, scene: "Scene") -> None:
    """Seams, lapels and the lining inside the neck, in place."""
    pen, unit = ImageDraw.Draw(patch), abs(garment.place.turn)
    dark, darker = (tuple(to_bytes(np.array(cloth.color) * k).tolist()) for k in (0.6, 0.4))

    def at(points: Points) -> list[float]:
        moved = garment.place(points) - complex(*box[:2])
        return np.stack([moved.real, moved.imag], axis=1).ravel().tolist()

    marks, seams = garment.pattern.landmarks, garment.pattern.seams
    category_id = garment.clothing.category_id
    front = marks[1:6]
    if category_id in OUTWEAR and scene.back:
        seams = seams[:-2]
    elif category_id in OUTWEAR:
        left, right = seams[-2:]  # of the neck and the front edges
        front = [*left, *right[::-1]]
        for edge, out in ((left, -0.3 - 0.1j), (right, 0.3 - 0.1j)):
            pen.polygon(at([*edge[:3], edge[2] + out]), fill=dark)
    if scene.viewpoint == 1 and category_id not in (*BOTTOMS, *SLINGS):
        pen.polygon(at([marks[0], *front]), fill=darker)
    for seam in seams:
        pen.line(at(seam), fill=dark, width=max(1, round(unit * 0.035)))
    if category_id in BOTTOMS:
        pen.line(at(seams[0]), fill=dark, width=max(1, round(unit * 0.22)))
