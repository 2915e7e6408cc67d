"""Made-up data in DeepFashion2's layout: drawn garments of the 13 kinds, every field filled in.

The data set itself lies behind a form, so tests, the quick start and benchmarks use this.
(seed, split, number) fix an image and its annotation, whatever else is made. Frames and
points: `mrcnn/deepfashion2/demo/garments.py`.
"""

import math
import os
import re
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import shapely
from PIL import Image
from tqdm import tqdm

from mrcnn.core.classes import DEEPFASHION2_CATEGORY_IDS
from mrcnn.core.files import PathLike
from mrcnn.deepfashion2.demo import own_classes
from mrcnn.deepfashion2.demo.garments import (
    BOTTOMS,
    DRESSES,
    OUTWEAR,
    TOPS,
    TRUNK_X,
    TRUNK_Y,
    Cut,
    Figure,
    Limb,
    Pattern,
    Place,
    Points,
    between,
    coordinates,
    draw_cut,
    draw_figure,
    lay_out,
    make_pattern,
    mirrored,
    pick,
    sleeve_end,
    strips,
    turned,
)
from mrcnn.deepfashion2.demo.painting import draw

LAYOUTS = ("deepfashion2", "coco")
SPLITS = (("train", 0.8), ("validation", 0.2))
CATEGORY_NAMES = {i: name for name, i in DEEPFASHION2_CATEGORY_IDS.items()}
# Garments of category 1 to 13 in the released train split: outfits are about as frequent.
FREQUENCIES = (71645, 36064, 543, 13457, 16095, 1985, 36616, 55387, 30835, 17211, 7907, 17949, 6492)
GROUPS: dict[tuple[int, ...], list[int]] = {
    group: [FREQUENCIES[i - 1] for i in group] for group in (TOPS, OUTWEAR, BOTTOMS, DRESSES)
}
# Undermost first, together all 13. The first images of a split wear these and some later ones
# too, so that a small set has every class.
OUTFITS = ((8, 1), (9, 5, 3), (7, 2, 4), (9, 6), (10,), (11,), (12,), (13,))
RARE_OUTFITS = 0.12
SIZES = ((480, 640), (468, 624), (480, 600), (450, 600), (540, 720), (500, 500), (600, 450))
SMALLEST_PIECE = 20.0  # pixels; an annotator would not see less
SMALLEST_SHARE = 0.03  # of a garment, in sight
LANDMARK_REACH = 2.0  # pixels from what is seen of the garment; farther off it is covered

Rng = np.random.Generator
Size = tuple[int, int]  # width, height
Layers = list[tuple[str, Any]]  # material, shapely geometry in the image frame
Annotation = dict[str, Any]  # the content of an annotation file


class Clothing(NamedTuple):
    """A garment before it is put on."""

    category_id: int
    cut: Cut
    style: int  # as in the annotation
    cloth: tuple[int, ...]  # seed of its colours and print


class Garment(NamedTuple):
    clothing: Clothing
    pattern: Pattern
    place: Place
    landmarks: np.ndarray  # [n] complex, image frame
    shape: Any  # shapely geometry, image frame, as if nothing lay on it


class Scene(NamedTuple):
    size: Size
    source: str
    pair_id: int
    viewpoint: int
    back: bool  # seen from behind
    figure: Figure
    place: Place  # of the figure
    garments: list[Garment]  # undermost first
    covers: Layers  # above all garments


# What is worn


def draw_outfit(rng: Rng) -> tuple[int, ...]:
    """Category ids, undermost first."""
    if rng.random() < RARE_OUTFITS:
        return pick(rng, OUTFITS)
    dresses, tops, outwear = (sum(GROUPS[group]) for group in (DRESSES, TOPS, OUTWEAR))
    groups: list[tuple[int, ...]] = [DRESSES]
    if rng.random() > dresses / (dresses + tops):
        groups = [BOTTOMS, TOPS]
    if rng.random() < outwear / (dresses + tops):
        groups.append(OUTWEAR)
    return tuple(pick(rng, group, GROUPS[group]) for group in groups)


# Scenes


def seed_of(seed: int, split: str, *numbers: int) -> tuple[int, ...]:
    return (seed, zlib.crc32(split.encode()), *numbers)


def make_scene(number: int, seed: int, split: str) -> Scene:
    """All that image `number` of a split shows."""
    if number < 1:
        raise ValueError(f"got image number {number}; they count from 1")
    rng = np.random.default_rng(seed_of(seed, split, number))
    pair, first = (number + 1) // 2, number <= len(OUTFITS)
    # In every third pair of images, user and shop show the same clothes.
    same = pair % 3 == 0 and not first
    look_seed = seed_of(seed, split, pair, 1) if same else seed_of(seed, split, number, 2)
    look = np.random.default_rng(look_seed) if same else rng
    if first:
        order = np.random.default_rng(seed_of(seed, split)).permutation(len(OUTFITS))
        outfit: tuple[int, ...] = OUTFITS[order[number - 1]]
    else:
        outfit = draw_outfit(look)
    clothes = [
        Clothing(category_id, draw_cut(category_id, look), i if same else 0, (*look_seed, i))
        for i, category_id in enumerate(outfit, 1)
    ]
    source = "user" if number % 2 else "shop"
    if first or rng.random() < 0.85:
        return worn_scene(rng, clothes, first, source, pair)
    return lying_scene(rng, clothes, source, pair)


def worn_scene(rng: Rng, clothes: list[Clothing], first: bool, source: str, pair: int) -> Scene:
    """Someone; `first`: from the front, all of it in the image."""
    view = "front" if first else pick(rng, ("front", "side", "back"), (88, 6, 6))
    figure, size = draw_figure(rng, worn=True), pick(rng, SIZES)
    if len(clothes) > 1 and clothes[1].category_id in TOPS and rng.random() < 0.3:
        clothes[:2] = clothes[1::-1]  # tucked in
    patterns = [make_pattern(c.category_id, c.cut, figure, view == "back") for c in clothes]
    framing = "whole" if first else pick(rng, ("whole", "far", "close"), (6, 1, 4))
    middle = float(np.mean(pick(rng, patterns).landmarks).imag)
    place = frame(rng, size, framing, middle, 0.7 if view == "side" else 1.0)
    garments = [
        Garment(clothing, pattern, place, *lay_out(pattern, place))
        for clothing, pattern in zip(clothes, patterns, strict=True)
    ]
    covers = draw_covers(rng, figure, place, clothes, view == "back")
    viewpoint = 2 if view == "front" else 3
    return Scene(size, source, pair, viewpoint, view == "back", figure, place, garments, covers)


def lying_scene(rng: Rng, clothes: list[Clothing], source: str, pair: int) -> Scene:
    """One or two garments that no one wears."""
    figure, size = draw_figure(rng, worn=False), pick(rng, SIZES)
    clothes = clothes[:2] if rng.random() < 0.4 else [pick(rng, clothes)]
    garments = []
    for cell, clothing in enumerate(clothes[::-1]):
        pattern = make_pattern(clothing.category_id, clothing.cut, figure, closed=True)
        place = lay_down(rng, size, pattern, cell, len(clothes))
        garments.append(Garment(clothing, pattern, place, *lay_out(pattern, place)))
    return Scene(size, source, pair, 1, False, figure, garments[0].place, garments, [])


def frame(rng: Rng, size: Size, framing: str, middle: float, squeeze: float) -> Place:
    """Of someone: all of them, far away, or close to a height `middle` of the figure frame."""
    width, height = size
    heads = {"whole": (8.0, 9.2), "far": (10.0, 13.0), "close": (3.4, 5.4)}[framing]
    unit = height / between(rng, *heads)
    top = {"whole": between(rng, 1.45, 1.6) * unit, "far": height * between(rng, 0.18, 0.3)}
    y = top.get(framing, height * between(rng, 0.42, 0.58) - middle * unit)
    offset = width * between(rng, 0.4, 0.6) + 1j * y
    turn = unit * turned(between(rng, -4, 4))
    return Place(squeeze * between(rng, 0.94, 1.05), turn, offset, between(rng, 0, 6))


def lay_down(rng: Rng, size: Size, pattern: Pattern, cell: int, cells: int) -> Place:
    """Of a garment on the floor; cells divide the image from top to bottom."""
    points = np.array(pattern.landmarks)
    low = points.real.min() + 1j * points.imag.min()
    span = points.real.max() + 1j * points.imag.max() - low
    unit = between(rng, 0.72, 0.98) * min(size[0] / span.real, size[1] / cells / span.imag)
    if cells == 1 and rng.random() < 0.15:
        unit *= 1.4  # cut by the image's border
    turn = unit * turned(between(rng, -12, 12) / cells)
    centre = size[0] / 2 + 1j * size[1] * (cell + 0.5) / cells
    return Place(1.0, turn, centre - (low + span / 2) * turn, between(rng, 0, 6))


def draw_covers(
    rng: Rng, figure: Figure, place: Place, clothes: list[Clothing], back: bool
) -> Layers:
    """What lies above the garments: bare arms and hands, a bag, long hair."""
    parts = [("skin", 0.14, bare_arm(clothes, figure.arms[i], 2 * i - 1)) for i in (0, 1)]
    if rng.random() < 0.18:
        side = pick(rng, (-1, 1))
        bag, across = side * 0.95 + 2.35j, pick(rng, (-0.5, 0.6)) * side
        parts += [("bag", 0.035, [across, bag]), ("bag", 0.33, [bag - 0.2, bag + 0.2])]
    if rng.random() < 0.5:
        low = between(rng, 0.1, 1.0)
        if back:
            parts.append(("hair", 0.42, [-0.8j, low * 1j]))
        else:
            parts += [("hair", 0.13, [x - 0.8j, 1.15 * x + low * 1j]) for x in (-0.4, 0.4)]
    return layers(parts, place)


def bare_arm(clothes: list[Clothing], arm: Limb, side: int) -> Points:
    """The bones of an arm that no sleeve covers, hand included; figure frame."""
    shoulder, elbow, wrist = arm
    hand = wrist + 0.2 * (wrist - elbow)
    upper = [c for c in clothes if c.category_id not in BOTTOMS]
    cuffs = [sleeve_end(c.category_id, c.cut, arm, side) for c in upper]
    bones, cuff, _ = max(cuffs, key=lambda end: (end[0], end[1].imag))
    # A round end begins beyond the cuff; `body` draws the whole arm under the sleeve.
    return [[shoulder, elbow, wrist, hand], [cuff, elbow, wrist, hand], [wrist, hand]][bones]


def layers(parts: Sequence[tuple[str, float, Points]], place: Place) -> Layers:
    """(material, half width, line in the figure frame) -> (material, shape in the image)."""
    names, halves, lines = zip(*parts, strict=True)
    return list(zip(names, strips(list(lines), halves, place), strict=True))


def body(scene: Scene) -> tuple[Layers, Layers]:
    """What lies under the garments, and the head above all; nothing where no one wears them."""
    place, figure = scene.place, scene.figure
    if scene.viewpoint == 1:
        return [], []
    right = [0.25 - 0.1j, *(figure.width * np.array(TRUNK_X) + 1j * np.array(TRUNK_Y))]
    trunk = place(np.array([*right, *mirrored(right[::-1])]))
    limbs = [("skin", 0.17, [-0.5j, 0.15j])]
    for shoulder, elbow, wrist in figure.arms:
        limbs.append(("skin", 0.14, [shoulder, elbow, wrist]))
    for hip, knee, ankle in figure.legs:
        foot = ankle + 0.25j + (0.1 if ankle.real > 0 else -0.1)
        limbs += [("skin", 0.20, [hip, knee]), ("skin", 0.16, [knee, ankle])]
        limbs.append(("shoes", 0.17, [ankle + 0.1j, foot]))
    head = [("hair", 0.46, [-0.95j, -0.80j])]
    if not scene.back:
        head.append(("skin", 0.37, [-0.82j, -0.62j]))
        head += [("eyes", 0.035, [x - 0.78j, x * 1.3 - 0.78j]) for x in (-0.13, 0.13)]
        head.append(("lips", 0.03, [-0.09 - 0.45j, 0.09 - 0.45j]))
    torso = shapely.Polygon(coordinates(trunk))
    return [("skin", torso), *layers(limbs, place)], layers(head, place)


# Annotations


def demo_annotation(number: int, seed: int = 0, split: str = "train") -> tuple[Annotation, Size]:
    """One image's annotation and size, without drawing the image.

    Args:
        number: the one in the file's name, from 1.
        split: each has images of its own.
    """
    scene = make_scene(number, seed, split)
    return annotate(scene), scene.size


def demo_image(number: int, seed: int = 0, split: str = "train") -> tuple[Annotation, Image.Image]:
    """One image's annotation and the RGB image; see `demo_annotation`."""
    scene = make_scene(number, seed, split)
    rng = np.random.default_rng(seed_of(seed, split, number, 3))
    return annotate(scene), draw(scene, *body(scene), rng)


def annotate(scene: Scene) -> Annotation:
    """What DeepFashion2's annotation file says of a scene; the uppermost garment is item1."""
    annotation: Annotation = {"source": scene.source, "pair_id": scene.pair_id}
    image = shapely.box(0, 0, *scene.size)
    covers = [shapely.disjoint_subset_union_all([shape for _, shape in scene.covers])]
    for garment in reversed(scene.garments):
        seen = garment.shape
        for cover in covers:
            if shapely.intersects(seen, cover):
                seen = shapely.difference(seen, cover)
        if not shapely.contains_properly(image, seen):
            seen = shapely.intersection(seen, image)
        polygons = pieces(seen)
        if sum(p.area for p in polygons) > SMALLEST_SHARE * garment.shape.area:
            annotation[f"item{len(annotation) - 1}"] = item(scene, garment, polygons)
        covers.append(garment.shape)
    return annotation


def pieces(geometry: Any) -> list[Any]:
    """The polygons of a geometry, without slivers; one with a hole is cut apart there.

    The format's polygons have no holes.
    """
    found: list[Any] = []
    for part in getattr(geometry, "geoms", (geometry,)):
        area = part.area
        if area < SMALLEST_PIECE or (area < 400 and part.buffer(-0.7).is_empty):
            continue
        if not part.interiors:
            found.append(part)
            continue
        x1, y1, x2, y2 = part.bounds
        x = part.interiors[0].centroid.x
        for half in (shapely.box(x1, y1, x, y2), shapely.box(x, y1, x2, y2)):
            found += pieces(shapely.intersection(part, half))
    return found


def item(scene: Scene, garment: Garment, polygons: list[Any]) -> Annotation:
    """A garment's entry in the annotation file; `polygons` (shapely's) are seen of it."""
    clothing = garment.clothing
    marks, covered, outside = landmarks(scene, garment, polygons)
    rings = [np.round(shapely.get_coordinates(p)[:-1], 2).ravel().tolist() for p in polygons]
    x1, y1 = (math.floor(min(min(ring[i::2]) for ring in rings)) for i in (0, 1))
    x2, y2 = (math.ceil(max(max(ring[i::2]) for ring in rings)) for i in (0, 1))
    return {
        "category_name": CATEGORY_NAMES[clothing.category_id],
        "category_id": clothing.category_id,
        "style": clothing.style,
        "bounding_box": [x1, y1, x2, y2],
        "landmarks": marks,
        "segmentation": rings,
        "scale": level((x2 - x1) * (y2 - y1) / (scene.size[0] * scene.size[1]), 0.1, 0.4),
        "occlusion": level(covered, 0.2, 0.5),
        "zoom_in": level(outside, 0.0, 0.3),
        "viewpoint": scene.viewpoint,
    }


def level(share: float, second: float, third: float) -> int:
    """1, or 2 or 3 where the share is above those limits."""
    return 1 + int(share > second) + int(share > third)


def landmarks(
    scene: Scene, garment: Garment, polygons: list[Any]
) -> tuple[list[int], float, float]:
    """([x1, y1, v1, ...], share that other things cover, share outside the image)."""
    points = garment.landmarks
    dots = shapely.points(coordinates(points))
    near = shapely.dwithin(shapely.multipolygons(polygons), dots, LANDMARK_REACH).tolist()
    # The wearer, not another thing, hides the other side of the neck.
    behind = [2, 3, 4] if scene.back else [0]
    if garment.clothing.category_id in BOTTOMS or scene.viewpoint == 1:
        behind = []
    marks, covered, outside = list[int](), 0, 0
    for i, point in enumerate(points.tolist()):
        if 0 <= point.real < scene.size[0] and 0 <= point.imag < scene.size[1]:
            marks += [int(point.real), int(point.imag), 2 if near[i] and i not in behind else 1]
            covered += not near[i] and i not in behind
        else:
            marks += [0, 0, 0]
            outside += 1
    return marks, covered / len(points), outside / len(points)


# Files


def make_demo(
    folder: PathLike,
    images: int = 200,
    seed: int = 0,
    splits: Iterable[tuple[str, float]] | None = None,
    progress: bool = True,
    layout: str = "deepfashion2",
) -> dict[str, int]:
    """Writes images and annotations, in DeepFashion2's layout or as a data set of other classes.

    "deepfashion2": `<folder>/<split>/image/000001.jpg` and `<folder>/<split>/annos/000001.json`, and
    so on. "coco": `<folder>/<split>/000001.jpg` and `<folder>/annotations/instances_<split>.json`,
    with the classes of `own_classes`. All of it appears when it is complete.

    Args:
        folder: made where it does not exist.
        images: number of images of all splits together.
        splits: (name, share) pairs; the shares are taken relative to their sum. None: train, and
            what the layout calls validation.

    Returns:
        Number of images of each split.

    Raises:
        ValueError: if an argument is out of range.
        FileExistsError: if a folder to write is there and not empty.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"make_demo() got layout={layout!r}; pass one of {', '.join(LAYOUTS)}")
    is_coco = layout == "coco"
    if splits is None:
        splits = own_classes.SPLITS if is_coco else SPLITS
    counts = split_counts(images, splits)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"make_demo() got seed={seed!r}; pass a whole number, 0 or more")
    folder, write = Path(folder), write_coco_split if is_coco else write_split
    made = [*counts, "annotations"] if is_coco else [*counts]
    check_free(folder, made)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".demo.") as temporary:
        with tqdm(total=images, unit=" images", disable=not progress) as bar:
            for split, count in counts.items():
                write(Path(temporary) / split, split, count, seed, bar)
        check_free(folder, made)
        for name in made:
            os.replace(Path(temporary) / name, folder / name)
    return counts


def check_free(folder: Path, splits: Iterable[str]) -> None:
    """Raises FileExistsError if something would be overwritten."""
    for target in (folder / split for split in splits):
        if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(
                f"{target} exists and is not an empty folder; nothing is overwritten: pass another "
                "folder or move that one away"
            )


def split_counts(images: int, splits: Iterable[tuple[str, float]]) -> dict[str, int]:
    """Images of each split, at least one each, `images` together."""
    splits = list(splits)
    names, shares = [name for name, _ in splits], [share for _, share in splits]
    are_names = all(re.fullmatch(r"\w[\w.-]*", name) for name in names)
    if not splits or len(set(names)) < len(names) or not are_names:
        raise ValueError(f"got splits {names}; give folder names, each once")
    if not all(share > 0 for share in shares):
        raise ValueError(f"got shares {shares} of the splits; give numbers above 0")
    if isinstance(images, bool) or not isinstance(images, int) or images < len(splits):
        raise ValueError(
            f"got images={images!r} for {len(splits)} splits; pass a whole number, one or more "
            "for each split"
        )
    edges = np.round(np.cumsum([0, *shares]) / sum(shares) * images)
    counts = np.diff(edges).astype(int)
    while not counts.all():
        counts[counts.argmax()] -= 1
        counts[counts.argmin()] += 1
    return dict(zip(names, counts.tolist(), strict=True))


def write_split(folder: Path, split: str, count: int, seed: int, bar: Any) -> None:
    """Writes one split's images and annotations into a new folder."""
    for name in ("image", "annos"):
        (folder / name).mkdir(parents=True)
    for number in range(1, count + 1):
        annotation, image = demo_image(number, seed, split)
        image.save(folder / "image" / f"{number:06d}.jpg", quality=90)
        (folder / "annos" / f"{number:06d}.json").write_bytes(orjson.dumps(annotation))
        bar.update()


def write_coco_split(folder: Path, split: str, count: int, seed: int, bar: Any) -> None:
    """Writes one split's images into a new folder, and its COCO file into annotations/ beside it."""
    folder.mkdir()
    scenes = []
    for number in range(1, count + 1):
        annotation, image = demo_image(number, seed, split)
        name = f"{number:06d}.jpg"
        image.save(folder / name, quality=90)
        scenes.append((name, image.size, annotation))
        bar.update()
    annotations = folder.parent / "annotations"
    annotations.mkdir(exist_ok=True)
    path = annotations / f"instances_{split}.json"
    path.write_bytes(orjson.dumps(own_classes.as_coco(scenes)))
