"""Class names, background first: `names[class_id]` is right for every id a model gives.

A list without the background shifts every label by one without any error, so no such list
exists here. Names travel inside the weights files (`mrcnn/network/weights.py`); the lists below serve
files without them, and the converter.
"""

BACKGROUND = "BG"

# The garments of DeepFashion2 (Ge et al., CVPR 2019, arXiv:1901.07973), category_id 1..13.
DEEPFASHION2 = (
    BACKGROUND,
    "short_sleeved_shirt",
    "long_sleeved_shirt",
    "short_sleeved_outwear",
    "long_sleeved_outwear",
    "vest",
    "sling",
    "shorts",
    "trousers",
    "skirt",
    "short_sleeved_dress",
    "long_sleeved_dress",
    "vest_dress",
    "sling_dress",
)

# `category_name` in DeepFashion2's annotation files -> category_id.
DEEPFASHION2_CATEGORY_IDS = {
    "short sleeve top": 1,
    "long sleeve top": 2,
    "short sleeve outwear": 3,
    "long sleeve outwear": 4,
    "vest": 5,
    "sling": 6,
    "shorts": 7,
    "trousers": 8,
    "skirt": 9,
    "short sleeve dress": 10,
    "long sleeve dress": 11,
    "vest dress": 12,
    "sling dress": 13,
}

# Landmarks of category c are points OFFSETS[c - 1] to OFFSETS[c] - 1 of the 294 that the data
# set's keypoint form gives every garment; so a skirt (9) has 190 - 182 = 8.
DEEPFASHION2_LANDMARK_OFFSETS = (0, 25, 58, 89, 128, 143, 158, 168, 182, 190, 219, 256, 275, 294)

# The 80 classes of COCO (arXiv:1405.0312), in the order of their category ids.
COCO = (
    BACKGROUND,
    *(["person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"]),
    *(
        [
            "traffic light",
            "fire hydrant",
            "stop sign",
            "parking meter",
            "bench",
            "bird",
            "cat",
            "dog",
            "horse",
        ]
    ),
    *(
        [
            "sheep",
            "cow",
            "elephant",
            "bear",
            "zebra",
            "giraffe",
            "backpack",
            "umbrella",
            "handbag",
            "tie",
            "suitcase",
        ]
    ),
    *(["frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove"]),
    *(
        [
            "skateboard",
            "surfboard",
            "tennis racket",
            "bottle",
            "wine glass",
            "cup",
            "fork",
            "knife",
            "spoon",
        ]
    ),
    *(
        [
            "bowl",
            "banana",
            "apple",
            "sandwich",
            "orange",
            "broccoli",
            "carrot",
            "hot dog",
            "pizza",
            "donut",
        ]
    ),
    *(
        [
            "cake",
            "chair",
            "couch",
            "potted plant",
            "bed",
            "dining table",
            "toilet",
            "tv",
            "laptop",
            "mouse",
        ]
    ),
    *(["remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator"]),
    *(["book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"]),
)


def names_for(num_classes):
    """Names for a weights file that carries none, by its class count.

    Args:
        num_classes: int, background included.

    Returns:
        tuple of num_classes strings, background first; 14 gives DeepFashion2's, 81 COCO's,
        any other count "class_1", "class_2", ...
    """
    known = {len(DEEPFASHION2): DEEPFASHION2, len(COCO): COCO}
    if num_classes in known:
        return known[num_classes]
    return (BACKGROUND, *(f"class_{i}" for i in range(1, num_classes)))


def plain_name(name):
    """A class name without what doesn't matter in it: case, underscores, outer spaces."""
    return str(name).strip().lower().replace("_", " ")


def same_names(ours, theirs):
    """Whether two lists of class names, background first, mean the same classes by each id.

    Case and underscores don't matter, nor how the background is called.
    """
    plain = [[plain_name(n) for n in names] for names in (ours, theirs)]
    return plain[0][1:] == plain[1][1:] and len(plain[0]) == len(plain[1])


def check_names(names, num_classes):
    """Returns `names` as a tuple of str, or raises if they can't name the model's classes.

    Args:
        names: sequence of str, background first.
        num_classes: int, background included.

    Raises:
        ValueError: if the count is wrong (13 names for 14 classes is the classic slip) or
            the first name is a class that is known not to be the background.
    """
    names = tuple(str(n) for n in names)
    if len(names) != num_classes:
        hint = f"; put {BACKGROUND!r} first" if len(names) == num_classes - 1 else ""
        raise ValueError(
            f"got {len(names)} class names for {num_classes} classes, background included{hint}"
        )
    if names and names[0] in {*DEEPFASHION2[1:], *COCO[1:]}:
        raise ValueError(
            f"the first class name is {names[0]!r}; id 0 is the background, put {BACKGROUND!r} first"
        )
    return names
