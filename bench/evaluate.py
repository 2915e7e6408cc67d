"""Times the scoring of generated results of the size of DeepFashion2's validation set.

    python bench/evaluate.py ours
    python bench/evaluate.py pycocotools
    python bench/evaluate.py faster_coco_eval     # needs: pip install faster-coco-eval

Each reads the annotations and results (JSON, masks as polygons and RLE), scores box and mask,
and prints one JSON line. "ours" includes the 12 subsets, and with --resamples the confidence
intervals; the others score once without subsets. The data are the same for all: 52,490 outlines of
40 points on 32,153 images of 468 x 624 pixels, 10 detections in each: of every garment one
that is off by some pixels, sometimes of another class, and the rest by chance.
"""

import argparse
import contextlib
import io
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import orjson
from pycocotools import mask as rle_tools

from mrcnn.core.classes import DEEPFASHION2

WIDTH, HEIGHT, POINTS, CLASSES = 468, 624, 40, 13


def outline(rng, centre, radii, jitter):
    """A blob as a polygon inside the image."""
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    radius = 1 + jitter * rng.standard_normal(POINTS)
    x = np.clip(centre[0] + radii[0] * radius * np.cos(angles), 0, WIDTH)
    y = np.clip(centre[1] + radii[1] * radius * np.sin(angles), 0, HEIGHT)
    return np.stack([x, y], axis=1).round(1).ravel().tolist()


def make_truth(rng, pictures, garments):
    """Content of a COCO file: at least one garment in each image."""
    owner = np.sort(np.r_[np.arange(pictures), rng.integers(0, pictures, garments - pictures)])
    annotations = []
    for n, picture in enumerate(owner.tolist(), 1):
        centre = rng.uniform([120, 150], [WIDTH - 120, HEIGHT - 150])
        radii = rng.uniform(40, 150, 2)
        polygon = outline(rng, centre, radii, 0.05)
        x, y = np.array(polygon[::2]), np.array(polygon[1::2])
        area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
        box = [x.min(), y.min(), np.ptp(x), np.ptp(y)]
        annotations.append(
            {
                "id": n,
                "image_id": picture + 1,
                "category_id": int(rng.integers(1, CLASSES + 1)),
                "bbox": [float(v) for v in box],
                "area": float(area),
                "iscrowd": 0,
                "segmentation": [polygon],
                **{k: int(rng.integers(1, 4)) for k in ("scale", "occlusion", "zoom_in")},
                "viewpoint": int(rng.integers(1, 4)),
            }
        )
    images = [
        {"id": i, "width": WIDTH, "height": HEIGHT, "file_name": f"{i:06d}.jpg"}
        for i in range(1, pictures + 1)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(DEEPFASHION2) if i]
    return {"images": images, "annotations": annotations, "categories": categories}


def make_results(rng, truth, each):
    """Results: near each garment, and by chance up to `each` in an image."""
    of_picture = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        of_picture[annotation["image_id"]].append(annotation)
    results = []
    for image_id, garments in of_picture.items():
        for n in range(each):
            if n < len(garments):
                x, y, w, h = garments[n]["bbox"]
                centre = np.array([x + w / 2, y + h / 2]) + rng.normal(0, 6, 2)
                radii = np.array([w, h]) / 2 * rng.uniform(0.85, 1.1, 2)
                right = rng.random() < 0.85
                category = garments[n]["category_id"] if right else int(rng.integers(1, 14))
                score = rng.uniform(0.3, 1)
            else:
                centre = rng.uniform([50, 50], [WIDTH - 50, HEIGHT - 50])
                radii, category = rng.uniform(20, 120, 2), int(rng.integers(1, CLASSES + 1))
                score = rng.uniform(0.05, 0.6)
            polygon = outline(rng, centre, radii, 0.05)
            rle = rle_tools.frPyObjects([polygon], HEIGHT, WIDTH)[0]
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [float(v) for v in rle_tools.toBbox(rle)],
                    "score": float(score),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    return results


def generate(folder, pictures, garments, each):
    """Writes truth.json and results.json unless they are there."""
    truth_path, results_path = folder / "truth.json", folder / "results.json"
    if not results_path.exists():
        rng = np.random.default_rng(0)
        truth = make_truth(rng, pictures, garments)
        truth_path.write_bytes(orjson.dumps(truth))
        results_path.write_bytes(orjson.dumps(make_results(rng, truth, each)))
    return truth_path, results_path


def ours(truth_path, results_path, resamples):
    """Our scores, box and mask AP first, and the seconds of each step."""
    from mrcnn.coco import ground_truth
    from mrcnn.evaluation import average_precision

    watch = Watch()
    truth = ground_truth.read_ground_truth(truth_path)
    detections = ground_truth.read_results(truth, results_path)
    views = average_precision.make_views(truth)
    watch.lap("read")
    scores = []
    for kind in ("bbox", "segm"):
        overlaps = average_precision.compute_overlaps(truth, detections, kind)
        watch.lap(f"{kind} overlaps")
        matches = average_precision.match_detections(truth, detections, kind, views, overlaps)
        watch.lap(f"{kind} match")
        scores.append(average_precision.summary(average_precision.accumulate(matches)).AP)
        watch.lap(f"{kind} accumulate")
        if resamples:
            from mrcnn.evaluation.bootstrap import ap_samples, draw_weights

            ap_samples(matches, draw_weights(matches.images, resamples, 0))
            watch.lap(f"{kind} bootstrap")
    return scores, watch.laps


class Watch:
    """Seconds of each step."""

    def __init__(self):
        self.laps, self.last = {}, time.perf_counter()

    def lap(self, name):
        now = time.perf_counter()
        self.laps[name], self.last = round(now - self.last, 2), now


def theirs(library, truth_path, results_path):
    """Box and mask AP of pycocotools or faster_coco_eval, once without subsets."""
    if library == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    watch, scores = Watch(), []
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_path))
        results = orjson.loads(results_path.read_bytes())
        watch.lap("read")
        for kind in ("bbox", "segm"):
            if kind == "segm":  # sizes of masks go by the mask
                results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
            scoring = COCOeval(truth, truth.loadRes(results), kind)
            scoring.evaluate()
            scoring.accumulate()
            scoring.summarize()
            scores.append(float(scoring.stats[0]))
            watch.lap(kind)
    return scores, watch.laps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scorer", choices=["ours", "pycocotools", "faster_coco_eval"])
    parser.add_argument("--pictures", type=int, default=32_153)
    parser.add_argument("--garments", type=int, default=52_490)
    parser.add_argument("--detections", type=int, default=10, help="in each image")
    parser.add_argument("--resamples", type=int, default=0, help="of the confidence intervals")
    parser.add_argument("--folder", type=Path, help="keep the generated files there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = generate(folder, args.pictures, args.garments, args.detections)
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if args.scorer == "ours":
            scores, laps = ours(*files, args.resamples)
        else:
            scores, laps = theirs(args.scorer, *files)
        seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "scorer": args.scorer,
                "pictures": args.pictures,
                "garments": args.garments,
                "detections": args.detections * args.pictures,
                "seconds": round(seconds, 2),
                "steps": laps,
                "box_ap": scores[0],
                "mask_ap": scores[1],
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "rss_mb_before": before // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
