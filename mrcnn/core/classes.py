"""Class names, background first: `names[class_id]` is right for every id a model gives.

A list without the background shifts every label by one without any error, so no such list
exists here. Weights files carry their own names (`mrcnn/network/weights.py`); the lists below
serve files without them, and the converter.
"""

import re
from collections.abc import Iterable

BACKGROUND = "BG"
# Characters of a class name.
LONGEST_NAME = 200
# Control characters, line separators and halves of a surrogate pair, which UTF-8 lacks.
_NOT_TEXT = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]")

# The garments of DeepFashion2 (Ge et al., CVPR 2019, arXiv:1901.07973), category_id 1..13:
# `category_name` in the annotation files, our name, and how many landmarks the garment has.
_GARMENTS = (
    ("short sleeve top", "short_sleeved_shirt", 25),
    ("long sleeve top", "long_sleeved_shirt", 33),
    ("short sleeve outwear", "short_sleeved_outwear", 31),
    ("long sleeve outwear", "long_sleeved_outwear", 39),
    ("vest", "vest", 15),
    ("sling", "sling", 15),
    ("shorts", "shorts", 10),
    ("trousers", "trousers", 14),
    ("skirt", "skirt", 8),
    ("short sleeve dress", "short_sleeved_dress", 29),
    ("long sleeve dress", "long_sleeved_dress", 37),
    ("vest dress", "vest_dress", 19),
    ("sling dress", "sling_dress", 19),
)
DEEPFASHION2 = (BACKGROUND, *(name for _, name, _ in _GARMENTS))
DEEPFASHION2_CATEGORY_IDS = {name: i for i, (name, _, _) in enumerate(_GARMENTS, 1)}
# Landmarks of category c are points OFFSETS[c - 1] to OFFSETS[c] - 1 of the 294 that the data
# set's keypoint form gives every garment; so a skirt (9) has 190 - 182 = 8.
DEEPFASHION2_LANDMARK_OFFSETS = tuple(
    sum(count for _, _, count in _GARMENTS[:i]) for i in range(len(_GARMENTS) + 1)
)

# The 80 classes of COCO (arXiv:1405.0312), in the order of their category ids.
_COCO = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant,
bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard,
sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle,
wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock,
vase, scissors, teddy bear, hair drier, toothbrush
"""
COCO = (BACKGROUND, *(name.strip() for name in _COCO.split(",")))


def names_for(num_classes: int) -> tuple[str, ...]:
    """Names for a weights file that carries none, by its class count, background included.

    Returns:
        num_classes names, background first; 14 gives DeepFashion2's, 81 COCO's, any other
        count "class_1", "class_2", ...
    """
    known = {len(DEEPFASHION2): DEEPFASHION2, len(COCO): COCO}
    if num_classes in known:
        return known[num_classes]
    return (BACKGROUND, *(f"class_{i}" for i in range(1, num_classes)))


def plain_name(name: object) -> str:
    """A class name without what doesn't matter in it: case, underscores, outer spaces."""
    return str(name).strip().lower().replace("_", " ")


def same_names(ours: Iterable[str], theirs: Iterable[str]) -> bool:
    """Whether two lists of class names, background first, mean the same classes by each id.

    Case and underscores don't matter, nor how the background is called.
    """
    plain = [[plain_name(n) for n in names] for names in (ours, theirs)]
    return plain[0][1:] == plain[1][1:] and len(plain[0]) == len(plain[1])


def check_ids(ids: Iterable[int] | None, num_classes: int) -> tuple[int, ...]:
    """The ids that a data set gives a model's classes, by class id: (0, 7, 20, 55).

    Args:
        ids: background first, whose id means nothing; None takes the class ids.

    Raises:
        ValueError: if there isn't one for each class, or two classes have the same.
    """
    checked = tuple(range(num_classes) if ids is None else ids)
    if len(checked) != num_classes or len(set(checked[1:])) != num_classes - 1:
        raise ValueError(
            f"got the category ids {checked} for {num_classes} classes, background included; give "
            "each one of its own"
        )
    return checked


def check_names(names: Iterable[object], num_classes: int) -> tuple[str, ...]:
    """Returns `names`, background first, as str, or raises if they can't name the model's classes.

    Raises:
        ValueError: if there aren't num_classes, background included (13 names for 14 classes
            is the classic slip), the first is a class that is known not to be the background, one
            is given twice or can't be shown: is empty, too long or has control characters.
    """
    checked = tuple(str(n) for n in names)
    if len(checked) != num_classes:
        hint = f"; put {BACKGROUND!r} first" if len(checked) == num_classes - 1 else ""
        raise ValueError(
            f"got {len(checked)} class names for {num_classes} classes, background included{hint}"
        )
    if checked and checked[0] in {*DEEPFASHION2[1:], *COCO[1:]}:
        raise ValueError(
            f"the first class name is {checked[0]!r}; id 0 is the background, put {BACKGROUND!r} first"
        )
    strange = [n for n in checked if not n.strip() or len(n) > LONGEST_NAME or _NOT_TEXT.search(n)]
    if strange:
        raise ValueError(
            f"the class name {strange[0][:40]!a} can't be shown; give 1 to {LONGEST_NAME} "
            "characters, none of them control characters"
        )
    if len(set(checked)) < len(checked):
        twice = next(n for n in checked if checked.count(n) > 1)
        raise ValueError(f"the class name {twice!r} is given twice; give each class its own")
    return checked
