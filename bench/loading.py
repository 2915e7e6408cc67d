"""Times loading one training image on one core, and the loader's threads, as JSON lines.

    python bench/loading.py
    python bench/loading.py --size 512 --augmentations none default
    python bench/loading.py --annotations train_coco.json --images train/image

Without --annotations: JPEGs of about 800x1000 made of input_folder/'s two photos with camera-like
grain, five garment-like polygons of 90 points in each. Times are medians in milliseconds: `total`
is an image from its file to molded float32, mini-masks and RPN targets; the parts were timed
one by one. `masks` is the way without outlines, as `load_image_gt` goes it. Run it with nothing
else running.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
from PIL import Image

from mrcnn.config import Config
from mrcnn.core.image import plan_resize, read_image
from mrcnn.data.augmentation import make_augmentation
from mrcnn.data.dataset import CocoDataset
from mrcnn.data.loader import BatchLoader
from mrcnn.data.outlines import as_arrays, place_all
from mrcnn.data.policy import PLAIN, total_matrix
from mrcnn.data.samples import Sampler, load_image_gt
from mrcnn.data.scenes import _render
from mrcnn.data.targets import build_rpn_targets

PHOTOS = Path(__file__).resolve().parent.parent / "input_folder"
SIZES = [(800, 1000), (780, 1040), (810, 990), (800, 1010), (768, 1024), (820, 980)]


def write_photos(folder):
    """Writes JPEGs and a COCO file; returns the path of that."""
    rng = np.random.default_rng(0)
    sources = [Image.open(PHOTOS / name) for name in ("grace_hopper.jpg", "astronaut.png")]
    images, annotations = [], []
    for i, (width, height) in enumerate(SIZES):
        photo = np.asarray(sources[i % 2].convert("RGB").resize((width, height), Image.BICUBIC))
        grainy = photo + rng.normal(0, 4, photo.shape)
        name = f"{i}.jpg"
        Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(folder / name, quality=90)
        images.append({"id": i, "file_name": name, "width": width, "height": height})
        for category_id in range(1, 6):
            polygon = garment(rng, width, height).round(1).ravel().tolist()
            annotation = {"image_id": i, "category_id": category_id, "segmentation": [polygon]}
            annotations.append(annotation | {"id": len(annotations) + 1})
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, 14)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "coco.json"
    path.write_text(json.dumps(content))
    return path


def garment(rng, width, height, points=90):
    """[points, (x, y)]: a wavy outline, a fifth to half of the image high."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = 1 + 0.15 * np.sin(3 * angle + rng.uniform(0, 6)) + rng.normal(0, 0.02, points)
    middle = rng.uniform(0.3, 0.7, 2) * (width, height)
    half = rng.uniform(0.1, 0.25, 2) * (width, height)
    outline = middle + half * radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return outline.clip(0, (width, height))


def median_ms(work, items, rounds):
    """Median over all items, each done `rounds` times."""
    for item in items:
        work(item)
    seconds = []
    for _ in range(rounds):
        for item in items:
            start = time.perf_counter()
            work(item)
            seconds.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(seconds), 2)


def parts(dataset, config, items, rounds):
    """Medians of the parts of loading without augmentation."""
    anchors = Sampler(dataset, config, None, None).anchors
    rng = np.random.default_rng(0)
    done = {}
    for i in items:
        image = dataset.load_image(i)
        plan = plan_resize(image.shape, config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM)
        shape = config.IMAGE_SHAPE[:2]
        matrix = total_matrix(plan, image.shape, shape)
        molded = _render(image, plan, matrix, PLAIN)
        instances = place_all(*dataset.load_outlines(i), matrix, shape)
        class_ids, boxes, _ = as_arrays(instances, shape, config.MINI_MASK_SHAPE)
        done[i] = image, plan, matrix, molded, instances, class_ids, boxes
    shape = tuple(config.IMAGE_SHAPE[:2])
    out = np.empty(tuple(config.IMAGE_SHAPE), np.float32)
    mean = np.tile(np.asarray(config.MEAN_PIXEL, np.float32), shape[1])
    works = {
        "decode": lambda i: read_image(dataset.image_info[i]["path"], apply_exif=False),
        "resize": lambda i: _render(done[i][0], done[i][1], done[i][2], PLAIN),
        "outlines": lambda i: dataset.load_outlines(i),
        "boxes": lambda i: place_all(*dataset.load_outlines(i), done[i][2], shape),
        "mini_masks": lambda i: as_arrays(done[i][4], shape, config.MINI_MASK_SHAPE),
        "rpn_targets": lambda i: build_rpn_targets(None, anchors, *done[i][5:], config, rng=rng),
        "mold": lambda i: np.subtract(
            done[i][3].reshape(shape[0], -1), mean, out=out.reshape(shape[0], -1)
        ),
    }
    return {name: median_ms(work, items, rounds) for name, work in works.items()}


def threads(dataset, config, augmentation, counts, batches):
    """Images a second by number of threads."""
    rates = {}
    for workers in counts:
        loader = BatchLoader(
            dataset, config, batch_size=8, shuffle=True, augmentation=augmentation, workers=workers
        )
        for _ in loader.epoch(0, 1):
            pass
        start = time.perf_counter()
        for _ in loader.epoch(1, batches):
            pass
        rates[workers] = round(8 * batches / (time.perf_counter() - start), 1)
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--augmentations", nargs="*", default=["none", "flip", "default", "zoom"])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    args = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = args.annotations or write_photos(Path(folder))
        dataset = CocoDataset()
        dataset.load_coco(path, args.images or folder, limit=20, source="bench")
        dataset.prepare()
        report(dataset, args)


def loads(dataset, config, augmentation, out):
    """A function of an image id that loads the image."""
    sampler = Sampler(dataset, config, make_augmentation(augmentation), None)
    rng = np.random.default_rng(0)
    return lambda i: sampler.load(i, rng, keep_empty=True, out=out)


def report(dataset, args):
    values = {"NUM_CLASSES": dataset.num_classes, "BACKBONE": "resnet101"}
    values.update(IMAGE_MIN_DIM=args.size, IMAGE_MAX_DIM=args.size)
    config = Config.from_dict(values)
    items = dataset.image_ids.tolist()
    out = np.empty(tuple(config.IMAGE_SHAPE), np.float32)
    print(json.dumps({"size": args.size, "parts_ms": parts(dataset, config, items, args.rounds)}))
    for name in args.augmentations:
        total = median_ms(loads(dataset, config, name, out), items, args.rounds)
        print(json.dumps({"augmentation": name, "total_ms": total}))
    slow = median_ms(lambda i: load_image_gt(dataset, config, i, use_mini_mask=True), items, 2)
    print(json.dumps({"masks": "load_image_gt, without RPN targets and molding", "ms": slow}))
    for name in args.augmentations[:3:2]:
        rates = threads(dataset, config, make_augmentation(name), args.threads, 8)
        print(json.dumps({"augmentation": name, "pictures_a_second_by_threads": rates}))


if __name__ == "__main__":
    main()
