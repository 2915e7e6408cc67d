"""The shapes of made-up garments of DeepFashion2's 13 kinds: landmarks, outlines, seams.

Points are complex numbers x + iy, y down, in one of two frames. Figure: head heights from the
base of the neck. Image: pixels as stored, that in column j and row i covers [j, j + 1) x
[i, i + 1). Left is the image's left; `side` is -1 there and 1 on the right. Landmarks are in
the data set's order, numbered from 1.
"""

import cmath
import math
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

import numpy as np
import shapely

TOPS, OUTWEAR, BOTTOMS, DRESSES = (1, 2, 5, 6), (3, 4), (7, 8, 9), (10, 11, 12, 13)
SHORTS, SKIRT = 7, 9

Option = TypeVar("Option")
Points = list[complex]
Limb = tuple[complex, complex, complex]  # shoulder, elbow, wrist; or hip, knee, ankle


class Kind(NamedTuple):
    """Between what a kind of garment varies; head heights."""

    sleeve: str  # "short", "long", "vest", "sling"; "" for what has no upper part
    hem: tuple[float, float]  # below the base of the neck
    ease: tuple[float, float]  # between cloth and body
    flare: tuple[float, float]  # wider by so much for each head height below the waist


KINDS = {
    1: Kind("short", (2.1, 2.75), (0.06, 0.20), (0.0, 0.06)),
    2: Kind("long", (2.1, 2.8), (0.06, 0.20), (0.0, 0.06)),
    3: Kind("short", (2.2, 3.0), (0.16, 0.28), (0.0, 0.08)),
    4: Kind("long", (2.2, 4.2), (0.18, 0.30), (0.0, 0.10)),
    5: Kind("vest", (2.0, 2.6), (0.03, 0.14), (0.0, 0.08)),
    6: Kind("sling", (1.9, 2.5), (0.02, 0.08), (0.0, 0.12)),
    7: Kind("", (3.5, 4.3), (0.04, 0.12), (0.0, 0.25)),
    8: Kind("", (5.4, 6.2), (0.03, 0.10), (0.0, 0.22)),
    9: Kind("", (3.4, 5.6), (0.04, 0.10), (-0.04, 0.45)),
    10: Kind("short", (3.4, 5.2), (0.04, 0.14), (0.0, 0.30)),
    11: Kind("long", (3.4, 5.6), (0.04, 0.14), (0.0, 0.30)),
    12: Kind("vest", (3.4, 5.2), (0.02, 0.12), (0.0, 0.35)),
    13: Kind("sling", (3.4, 5.6), (0.02, 0.08), (0.0, 0.35)),
}
# Half the width of a trunk at heights below the neck, in head heights.
TRUNK_Y = (0.1, 0.45, 0.75, 1.25, 1.75, 2.2, 2.6, 3.1)
TRUNK_X = (0.84, 0.79, 0.71, 0.65, 0.58, 0.70, 0.80, 0.78)
UPPER_ARM, FOREARM = 1.25, 1.1


class Cut(NamedTuple):
    """One garment's measures: head heights, or shares from 0 to 1."""

    hem: float
    ease: float
    flare: float
    loose: float  # 0 follows the waist, 1 hangs straight
    neck: float
    depth: float  # of the neckline
    reach: float  # of the sleeves: 0 and 1 are the shortest and the longest of the kind
    opening: float  # of outwear, half of it, at the chest
    waist: float  # where trousers and skirts begin
    wave: float  # of a skirt's hem
    vee: bool


class Figure(NamedTuple):
    """How someone stands, figure frame; limbs left and right."""

    width: float  # of the trunk, 1 is usual
    arms: tuple[Limb, ...]
    legs: tuple[Limb, ...]


class Pattern(NamedTuple):
    """A garment's points in the figure frame."""

    landmarks: Points
    curves: list[Points]  # closed; their union is the garment
    corners: set[complex]  # the curves are smooth elsewhere
    seams: list[Points]


class Place(NamedTuple):
    """Figure frame -> image frame."""

    squeeze: float  # of the width: 1 from the front, less from the side
    turn: complex  # its length is a head's height in pixels
    offset: complex
    bend: float = 0.0  # phase of the waves that make straight lines a little crooked

    def __call__(self, points: Points | np.ndarray) -> np.ndarray:
        points = np.asarray(points)
        x = points.real + 0.015 * np.sin(5 * points.imag + 2 * points.real + self.bend)
        return np.asarray((self.squeeze * x + 1j * points.imag) * self.turn + self.offset)


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number from low to high; quicker than Generator.uniform for one."""
    return low + (high - low) * rng.random()


def pick(
    rng: np.random.Generator, options: Sequence[Option], weights: Sequence[float] | None = None
) -> Option:
    """One of the options; quicker than Generator.choice for one."""
    if weights is None:
        return options[int(rng.random() * len(options))]
    sums = list(accumulate(weights))
    return options[bisect(sums, rng.random() * sums[-1])]


def draw_cut(category_id: int, rng: np.random.Generator) -> Cut:
    kind = KINDS[category_id]
    return Cut(
        hem=between(rng, *kind.hem),
        ease=between(rng, *kind.ease),
        flare=between(rng, *kind.flare),
        loose=rng.random(),
        neck=between(rng, 0.28, 0.40),
        depth=between(rng, 0.15, 0.55),
        reach=rng.random(),
        opening=between(rng, 0.06, 0.40),
        waist=between(rng, 1.65, 2.0),
        wave=between(rng, 0.0, 0.08),
        vee=rng.random() < 0.35,
    )


def draw_figure(rng: np.random.Generator, worn: bool) -> Figure:
    """A `Figure`; without a wearer, limbs as straight as sleeves and legs on the floor."""
    width, arms, legs = between(rng, 0.9, 1.1), list[Limb](), list[Limb]()
    reach, spread = between(rng, 25, 60), between(rng, 0, 6)
    # Upper and lower arm: hanging, off, on the hip, in front.
    poses = ((12.0, 6.0), (35.0, 30.0), (42.0, -40.0), (15.0, -88.0))
    for side in (-1, 1):
        upper, lower = pick(rng, poses, (5, 4, 2, 1)) if worn else (reach, reach)
        upper += between(rng, -6, 10)
        lower = lower + between(rng, -8, 12) if worn else upper
        shoulder = side * 0.78 * width + 0.18j
        elbow = shoulder + UPPER_ARM * 1j * turned(side * upper)
        arms.append((shoulder, elbow, elbow + FOREARM * 1j * turned(side * lower)))
        hip, down = side * 0.40 + 2.7j, 1j * turned(side * spread)
        legs.append((hip, hip + 1.8 * down, hip + 3.5 * down))
    return Figure(width, tuple(arms), tuple(legs))


def turned(degrees: float) -> complex:
    """The factor that turns a point: what hangs down, 1j, moves to the right."""
    return cmath.exp(-1j * math.radians(degrees))


def half_width(y: float, cut: Cut, figure: Figure) -> float:
    """Half the width of a garment at a height."""
    i = min(max(bisect(TRUNK_Y, y), 1), len(TRUNK_Y) - 1)
    share = min(max((y - TRUNK_Y[i - 1]) / (TRUNK_Y[i] - TRUNK_Y[i - 1]), 0), 1)
    body = TRUNK_X[i - 1] + share * (TRUNK_X[i] - TRUNK_X[i - 1])
    return max(body, cut.loose * 0.76) * figure.width + cut.ease + cut.flare * max(0, y - 1.75)


def along(start: complex, end: complex, share: float, side: int) -> tuple[complex, complex]:
    """The point at a share of the way, and the unit normal that points away from the body."""
    return start + (end - start) * share, -1j * side * (end - start) / abs(end - start)


def mirrored(points: Sequence[complex]) -> Points:
    """The same on the other side, in the same order."""
    return [-p.conjugate() for p in points]


def sleeve_end(category_id: int, cut: Cut, arm: Limb, side: int) -> tuple[int, complex, complex]:
    """(bones that the sleeve reaches along: 0, 1 or 2, the cuff's middle and the normal there)."""
    shoulder, elbow, wrist = arm
    style = KINDS[category_id].sleeve
    if style == "long":
        return 2, *along(elbow, wrist, 0.85 + 0.15 * cut.reach, side)
    if style == "short":
        return 1, *along(shoulder, elbow, 0.45 + 0.45 * cut.reach, side)
    return 0, *along(shoulder, elbow, 0.0, side)


def sleeve(category_id: int, cut: Cut, arm: Limb, side: int, armpit: complex) -> Points:
    """Landmarks from the shoulder down the outside, and up the inside to the armpit."""
    shoulder, elbow, wrist = arm
    top = shoulder - 0.13j + side * 0.3 * cut.ease
    width = 0.17 + 0.7 * cut.ease
    _, end, out = sleeve_end(category_id, cut, arm, side)
    if KINDS[category_id].sleeve == "short":
        outer, inner = end + out * width, end - out * (width + 0.04)
        return [top, (top + outer) / 2 + 0.04 * out, outer, inner, (inner + armpit) / 2, armpit]
    upper, out1 = along(shoulder, elbow, 0.5, side)
    lower, out2 = along(elbow, wrist, 0.5, side)
    bend = (out1 + out2) / abs(out1 + out2)
    rings = ((upper, out1, 1.0), (elbow, bend, 0.9), (lower, out2, 0.8), (end, out, 0.65))
    outside = [centre + out * width * share for centre, out, share in rings]
    inside = [centre - out * width * share for centre, out, share in rings]
    return [top, *outside, *inside[::-1], armpit]


class Half(NamedTuple):
    """One side of an upper garment."""

    arm: Points  # landmarks from the shoulder to the armpit
    flank: Points  # landmarks below, down to the hem's corner
    armhole: Points  # a point between shoulder and armpit where there is no sleeve

    def outside(self) -> Points:
        """The outline from the shoulder to the hem's corner."""
        return [self.arm[0], *self.armhole, *self.arm[1:], *self.flank]


def upper_half(category_id: int, cut: Cut, figure: Figure, side: int) -> Half:
    style, armpit_y = KINDS[category_id].sleeve, 0.72 + 0.5 * cut.ease
    sleeved = style in ("short", "long")
    if category_id in DRESSES:
        heights = [1.25, 1.8, 2.6, (2.6 + cut.hem) / 2, cut.hem][not sleeved :]
    else:
        steps = 2 + sleeved
        heights = [armpit_y + (cut.hem - armpit_y) * i / steps for i in range(1, steps + 1)]
    armpit, *flank = (side * half_width(y, cut, figure) + 1j * y for y in (armpit_y, *heights))
    if sleeved:
        arm = sleeve(category_id, cut, figure.arms[side > 0], side, armpit)
        return Half(arm, flank, [])
    outside = 0.56 if style == "sling" else cut.neck + 0.26
    armhole = [side * (outside - 0.015) + 0.45j]
    return Half([side * outside + 0.03j, armpit], flank, armhole)


def neckline(category_id: int, cut: Cut) -> Points:
    """Landmarks 1 to 6: the middle of the back, then the front from left to right."""
    style = KINDS[category_id].sleeve
    if style == "sling":
        back, wide, mid, depth = 0.5j, 0.47 + 0j, 0.46 + 0.48j, 0.5 + 0.35 * cut.depth
    else:
        back, wide, depth = -0.12j, cut.neck - 0.04j, cut.depth + 0.15 * (style == "vest")
        mid = cut.neck / 2 + 0.5j * depth if cut.vee else 0.72 * cut.neck + 0.78j * depth
    return [back, *mirrored([wide, mid]), 1j * depth, mid, wide]


def upper(category_id: int, cut: Cut, figure: Figure, closed: bool) -> Pattern:
    """A top or a dress; `closed`: the outline runs along the back of the neck, but for slings."""
    halves = [upper_half(category_id, cut, figure, side) for side in (-1, 1)]
    neck, hem = neckline(category_id, cut), 1j * (cut.hem + 0.04)
    sling = KINDS[category_id].sleeve == "sling"
    collar = [neck[5], neck[0]] if closed and not sling else neck[:1:-1]
    left, right = (half.outside() for half in halves)
    curve = [neck[1], *left, hem, *right[::-1], *collar]
    corners, seams = sleeve_lines(halves)
    corners |= {neck[1], neck[5]} | ({neck[3]} if cut.vee else set())
    if sling:
        corners |= {neck[2], neck[4], *(half.armhole[0] for half in halves)}
    if category_id in DRESSES:
        seams.append([half.flank[-4] for half in halves])
    return Pattern(upper_landmarks(neck, halves, hem), [curve], corners, [collar, *seams])


def sleeve_lines(halves: list[Half]) -> tuple[set[complex], list[Points]]:
    """(corners, seams) of both sides, sleeves or none."""
    corners, seams = set[complex](), list[Points]()
    for arm, flank, _ in halves:
        corners |= {arm[0], arm[-1], flank[-1]}
        if len(arm) > 2:
            cuff = arm[len(arm) // 2 - 1 : len(arm) // 2 + 1]
            corners.update(cuff)
            seams += [[arm[0], arm[-1]], cuff]
    return corners, seams


def upper_landmarks(neck: Points, halves: list[Half], middle: complex) -> Points:
    """Neck, down the left, the hem's middle, up the right."""
    left, right = halves
    return [*neck, *left.arm, *left.flank, middle, *right.flank[::-1], *right.arm[::-1]]


def outwear(category_id: int, cut: Cut, figure: Figure, closed: bool) -> Pattern:
    """Outwear, open in front; see `upper`."""
    halves = [upper_half(category_id, cut, figure, side) for side in (-1, 1)]
    neck = neckline(category_id, cut)
    heights = [0.75 + (cut.hem - 0.75) * share for share in (0, 1 / 3, 2 / 3)]
    right_edge = [cut.opening * (0.8 + 0.2 * i) + 1j * y for i, y in enumerate(heights)]
    right_edge.append(1.5 * cut.opening + 1j * (cut.hem + 0.04))
    left_edge = mirrored(right_edge)
    neck[2:5] = [neck[1] - 0.02 + 0.35j, left_edge[0], neck[5] + 0.02 + 0.35j]
    left, right = (half.outside() for half in halves)
    if closed:
        panels = [[neck[1], *left, left_edge[3], right_edge[3], *right[::-1], neck[5], neck[0]]]
    else:
        panels = [[neck[1], *left, *left_edge[::-1], neck[2]]]
        panels.append([neck[5], *right, *right_edge[::-1], neck[4]])
    corners, seams = sleeve_lines(halves)
    corners |= {neck[1], neck[5], *(edge[i] for edge in (left_edge, right_edge) for i in (0, 3))}
    seams += [[neck[1], neck[2], *left_edge], [neck[5], neck[4], *right_edge]]
    landmarks = [*upper_landmarks(neck, halves, left_edge[3]), *right_edge, *left_edge[1:3]]
    return Pattern(landmarks, panels, corners, seams)


def trousers(category_id: int, cut: Cut, figure: Figure) -> Pattern:
    """Shorts or trousers."""
    top, hip = waistband(cut, figure)
    left, right = (
        trouser_leg(category_id, cut, figure.legs[side > 0], side, side * hip + 2.6j)
        for side in (-1, 1)
    )
    crotch = 3.05j
    curve = [*top, *right, crotch, *left[::-1]]
    knees = () if category_id == SHORTS else (left[1], left[-1], right[1], right[-1])
    corners = {top[0], top[2], crotch, *left[1:], *right[1:]}.difference(knees)
    seams = [top, [top[1], crotch]]
    return Pattern([*top, *left, crotch, *right[::-1]], [curve], corners, seams)


def waistband(cut: Cut, figure: Figure) -> tuple[Points, float]:
    """Landmarks 1 to 3 of trousers and skirts, and half their width at the hip."""
    straight = cut._replace(loose=0, flare=0)
    waist, hip = (half_width(y, straight, figure) for y in (cut.waist, 2.6))
    return [-waist + 1j * cut.waist, 1j * (cut.waist + 0.04), waist + 1j * cut.waist], hip


def trouser_leg(category_id: int, cut: Cut, leg: Limb, side: int, start: complex) -> Points:
    """Landmarks from the hip down the outside, and up the inside."""
    hip, knee, ankle = leg
    width = 0.22 + cut.ease + 0.3 * cut.flare

    def ring(above: complex, below: complex, height: float, half: float) -> Points:
        share = (height - above.imag) / (below.imag - above.imag)
        centre, out = along(above, below, share, side)
        inner = centre - out * half
        # Never past the middle, where the outline would cross itself.
        return [centre + out * half, side * max(side * inner.real, 0.02) + 1j * inner.imag]

    if category_id == SHORTS:
        return [start, *ring(hip, knee, cut.hem, width + 0.12)]
    outside, inside = ring(hip, knee, 4.5, width)
    hem = ring(knee, ankle, cut.hem, 0.14 + 0.5 * cut.ease + cut.flare)
    return [start, outside, *hem, inside]


def skirt(cut: Cut, figure: Figure) -> Pattern:
    top, hip = waistband(cut, figure)
    low = hip + cut.flare * (cut.hem - 2.6)
    right = [(hip + low) / 2 + 1j * (2.2 + cut.hem) / 2, low + 1j * cut.hem]
    left, middle = mirrored(right), 1j * (cut.hem + cut.wave)
    waves = [x * low / 2 + 1j * (cut.hem - cut.wave) for x in (1, -1)]
    curve = [*top, *right, waves[0], middle, waves[1], *left[::-1]]
    folds = [[x * top[2].real + 1j * cut.waist, x * low + 1j * cut.hem] for x in (-0.6, 0, 0.6)]
    corners = {top[0], top[2], left[1], right[1]}
    return Pattern([*top, *left, middle, *right[::-1]], [curve], corners, [top, *folds])


def make_pattern(category_id: int, cut: Cut, figure: Figure, closed: bool) -> Pattern:
    """Any garment; see `upper`."""
    if category_id == SKIRT:
        return skirt(cut, figure)
    if category_id in BOTTOMS:
        return trousers(category_id, cut, figure)
    make = outwear if category_id in OUTWEAR else upper
    return make(category_id, cut, figure, closed)


STEPS = np.arange(3) / 3
# Weights of both ends and of both ends' tangents along a cubic, [4, 3].
CUBIC = np.stack(
    [
        2 * STEPS**3 - 3 * STEPS**2 + 1,
        3 * STEPS**2 - 2 * STEPS**3,
        STEPS**3 - 2 * STEPS**2 + STEPS,
        STEPS**3 - STEPS**2,
    ]
)


def lay_out(pattern: Pattern, place: Place) -> tuple[np.ndarray, Any]:
    """(landmarks [n] complex, shapely geometry that the curves enclose), image frame."""
    drawn = [coordinates(place(smooth_curve(curve, pattern.corners))) for curve in pattern.curves]
    shapes = [shapely.Polygon(points) for points in drawn]
    # A sleeve lies over the trunk, or folds over itself in the elbow.
    valid = [s if s.is_valid else shapely.make_valid(s, method="structure") for s in shapes]
    shape = valid[0] if len(valid) == 1 else shapely.union_all(valid)
    return place(pattern.landmarks), shape


def smooth_curve(curve: Points, corners: set[complex]) -> np.ndarray:
    """[M] complex: points along a closed curve, len(STEPS) for each of its own."""
    here = np.array(curve)
    after = np.roll(here, -1)
    step = after - here
    chord, length = step + np.roll(step, 1), abs(step)
    # No longer than the shorter neighbour, or the curve would run past a point.
    tangent = chord * np.minimum(length, np.roll(length, 1)) / (abs(chord) + 1e-9)
    tangent[[point in corners for point in curve]] = 0
    ends = np.array([here, after, tangent, np.roll(tangent, -1)])
    return np.asarray(ends.T @ CUBIC).ravel()


def strips(lines: list[Points], halves: Sequence[float], place: Place) -> list[Any]:
    """Bent strips with round ends along lines in the figure frame, each half as wide as `halves`
    say in head heights: shapely geometries in the image frame."""
    strings = [shapely.LineString(coordinates(place(line))) for line in lines]
    return list(shapely.buffer(strings, np.array(halves) * abs(place.turn), quad_segs=3))


def coordinates(points: np.ndarray) -> np.ndarray:
    """[N] complex -> [N, (x, y)] float64."""
    return points.view(np.float64).reshape(-1, 2)
