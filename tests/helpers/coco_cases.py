"""Small COCO files and results for tests: by chance, and by hand."""

import numpy as np
from pycocotools import mask as rle_tools

from mrcnn.coco.ground_truth import read_ground_truth, read_results
from mrcnn.coco.reader import ATTRIBUTES
from mrcnn.evaluation import average_precision

HEIGHT, WIDTH = 150, 160
CLASSES = 4  # the last one never has anything to find


def rle_of(x, y, width, height):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    mask[y : y + height // 3, x : x + width // 3] = 0  # so masks and boxes differ
    rle = rle_tools.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def random_box(rng):
    width, height = rng.integers(4, 130, 2)
    x, y = rng.integers(0, WIDTH - width), rng.integers(0, HEIGHT - height)
    return [int(v) for v in (x, y, width, height)]


def near(rng, box):
    """The box, moved and resized by a few pixels."""
    x, y, width, height = (int(v) for v in np.array(box) + rng.integers(-4, 5, 4))
    x, y = max(x, 0), max(y, 0)
    return [x, y, min(max(width, 2), WIDTH - x), min(max(height, 2), HEIGHT - y)]


def random_data(seed, count=12, busy=4):
    """A COCO file's content and results: ties, crowds, empty images, an absent class."""
    rng = np.random.default_rng(seed)
    images = [{"id": 3 * i + 2, "height": HEIGHT, "width": WIDTH} for i in range(count)]
    annotations, results = [], []
    for image in images:
        for _ in range(rng.integers(0, busy)):
            box = random_box(rng)
            if annotations and rng.random() < 0.2:  # the same place twice: equal overlaps
                box = annotations[-1]["bbox"]
            segmentation = rle_of(*box)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": int(rng.integers(1, CLASSES)),
                "bbox": box,
                "segmentation": segmentation,
                "area": float(rle_tools.area(segmentation)),
                "iscrowd": int(rng.random() < 0.1),
            }
            annotation |= {name: int(rng.integers(1, 4)) for name in ATTRIBUTES}
            annotations.append(annotation)
            for _ in range(rng.integers(0, 4)):
                same = rng.random() < 0.8
                category = annotation["category_id"] if same else int(rng.integers(1, CLASSES + 1))
                results.append(found(image["id"], category, near(rng, box), rng))
        for _ in range(rng.integers(0, 3)):
            category = int(rng.integers(1, CLASSES + 1))
            results.append(found(image["id"], category, random_box(rng), rng))
    order = rng.permutation(len(results))
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    return truth, [results[i] for i in order]


def found(image_id, category_id, box, rng):
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "segmentation": rle_of(*box),
        "score": float(rng.integers(1, 11)) / 10,  # few values, so many ties
    }


BOX = [10, 10, 40, 40]
APART = [90, 90, 30, 30]


def one_image(*instances):
    """Content with one image; instances are (box, occlusion)."""
    rows = [
        {
            "id": n,
            "image_id": 1,
            "category_id": 1,
            "bbox": box,
            "area": 1600.0,
            "iscrowd": 0,
            "segmentation": rle_of(*box),
            "occlusion": occlusion,
        }
        for n, (box, occlusion) in enumerate(instances, 1)
    ]
    return {
        "images": [{"id": 1, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "shirt"}],
        "annotations": rows,
    }


def detection(box, score):
    return {
        "image_id": 1,
        "category_id": 1,
        "bbox": box,
        "segmentation": rle_of(*box),
        "score": score,
    }


def accumulated(content, results, kind):
    truth = read_ground_truth(content)
    detections = read_results(truth, results)
    views = average_precision.make_views(truth)
    overlaps = average_precision.compute_overlaps(truth, detections, kind)
    matches = average_precision.match_detections(truth, detections, kind, views, overlaps)
    return matches, average_precision.accumulate(matches)
