"""The name of a garment's colour.

Each pixel votes for the nearest of these names in CIELAB, where distances match perception.
Lighting matters: red cloth in deep shade is called brown or black.
"""

import numpy as np

# sRGB of each name's typical shades; several where one does not cover the name.
COLORS = {
    "black": [(0, 0, 0), (35, 35, 38)],
    "grey": [(85, 85, 88), (128, 128, 128), (170, 170, 172)],
    "white": [(255, 255, 255), (225, 225, 228)],
    "red": [(220, 20, 30), (165, 20, 30)],
    "orange": [(255, 130, 0), (225, 110, 40)],
    "yellow": [(255, 225, 20), (235, 205, 90)],
    "olive": [(110, 110, 45), (75, 80, 45)],
    "green": [(40, 150, 60), (20, 90, 45), (140, 200, 110)],
    "turquoise": [(60, 190, 185), (20, 120, 125)],
    "blue": [(40, 90, 200), (90, 150, 215), (85, 115, 160)],
    "navy": [(20, 28, 75), (40, 50, 80)],
    "purple": [(115, 45, 150), (150, 110, 185)],
    "pink": [(255, 150, 185), (225, 60, 130), (235, 195, 200)],
    "brown": [(105, 65, 40), (70, 45, 35), (145, 100, 70)],
    "beige": [(225, 205, 170), (195, 170, 135)],
}
SAMPLES = 2000


def color_name(pixels: np.ndarray) -> str:
    """The dominant colour of [P, (red, green, blue)] uint8 sRGB pixels: a key of `COLORS`.

    "" without pixels.
    """
    if not len(pixels):
        return ""
    # Evenly spread over the garment, and the same in each run.
    sample = np.asarray(pixels)[:: -(-len(pixels) // SAMPLES)]
    names = [name for name, shades in COLORS.items() for _ in shades]
    shades = np.array([shade for shades in COLORS.values() for shade in shades], np.uint8)
    distances = np.linalg.norm(to_lab(sample)[:, None] - to_lab(shades)[None], axis=-1)
    votes = dict.fromkeys(COLORS, 0)
    for index, count in enumerate(np.bincount(distances.argmin(axis=1), minlength=len(names))):
        votes[names[index]] += int(count)
    return max(votes, key=votes.__getitem__)


# sRGB's primaries in CIE XYZ, each row divided by that of its white, D65 (IEC 61966-2-1).
_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
) / np.array([[0.95047], [1.0], [1.08883]])


def to_lab(pixels: np.ndarray) -> np.ndarray:
    """[P, (red, green, blue)] uint8 sRGB -> [P, (L, a, b)] float64 CIELAB for D65, L 0..100.

    As scikit-image's `rgb2lab`, whose import takes 32 MB.
    """
    values = np.asarray(pixels) / 255
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    shares = linear @ _TO_XYZ.T
    x, y, z = np.where(shares > (6 / 29) ** 3, np.cbrt(shares), shares * 841 / 108 + 4 / 29).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
