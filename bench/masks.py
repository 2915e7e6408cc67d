"""Quality of masks by how they are made, on annotated photos, one JSON line each.

    python bench/masks.py --images data/deepfashion2/validation/image \
        --annotations data/deepfashion2/validation_coco.json

original: pasted as `MaskRCNN.detect` does; stretched: as the inference command does; refined:
with --refine; tta: with --tta. Boundary IoU (arXiv:2103.16562) is taken of the annotated
garments that a detection of their class, score 0.5 or more, meets with a mask IoU of 0.5 or
more; boundaries are 2 % of the image's diagonal wide.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from scipy import ndimage

from mrcnn.commands.environment import import_tensorflow
from mrcnn.core.image import paste_masks
from mrcnn.core.reading import read_image
from mrcnn.evaluation.per_image import coco_scores

WIDTH = 0.02


def boundary(mask):
    """The part of a mask [H, W] bool that lies near its edge."""
    width = max(1, round(WIDTH * np.hypot(*mask.shape)))
    inner = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1] > width
    return mask & ~inner


def original_masks(result):
    pasted = paste_masks(result.raw_masks, result.boxes, result.size)
    return [pasted[..., i] for i in range(len(result))]


def full_masks(result):
    masks = result.masks
    return [masks[..., i] for i in range(len(result))]


def matched(result, masks, truth, coco):
    """(boundary IoU, mask IoU) of each annotated garment that was found."""
    codes = [mask_utils.encode(np.asfortranarray(m, np.uint8)) for m in masks]
    for annotation in truth:
        rows = [
            i
            for i in range(len(result))
            if result.class_ids[i] == annotation["category_id"] and result.scores[i] >= 0.5
        ]
        if not rows or annotation.get("iscrowd"):
            continue
        code = coco.annToRLE(annotation)
        iou = mask_utils.iou([codes[i] for i in rows], [code], [0])[:, 0]
        if iou.max() < 0.5:
            continue
        ours = boundary(masks[rows[int(iou.argmax())]])
        theirs = boundary(mask_utils.decode(code).astype(bool))
        yield (ours & theirs).sum() / (ours | theirs).sum(), iou.max()


def measure(name, predictor, make_masks, coco, args, refined=False):
    """Scores of one way of making masks."""
    rows, pairs, seconds = [], [], 0.0
    for image in coco.dataset["images"]:
        picture = read_image(args.images / image["file_name"], apply_exif=False)
        result = replace(predictor([picture])[0], refined=refined, _crops={}, _rles={})
        start = time.perf_counter()
        masks = make_masks(result)
        seconds += time.perf_counter() - start
        for row, mask in zip(result.to_coco(image["id"]), masks, strict=True):
            code = mask_utils.encode(np.asfortranarray(mask, np.uint8))
            row["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}
            rows.append(row)
        truth = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        pairs += matched(result, masks, truth, coco)
    scores = coco_scores(args.annotations, rows)
    report = {f"mask_{k}": round(scores["segm"][k], 4) for k in ("AP", "AP50", "AP75")}
    report["box_AP"] = round(scores["bbox"]["AP"], 4)
    report |= {"boundary_iou": round(float(np.mean([p[0] for p in pairs])), 4)}
    report |= {"iou": round(float(np.mean([p[1] for p in pairs])), 4), "matched": len(pairs)}
    report["ms_per_picture"] = round(1000 * seconds / len(coco.dataset["images"]), 1)
    print(json.dumps({"masks": name, **report}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--weights", default="weights")
    parser.add_argument("--precision", default="float32")
    args = parser.parse_args()
    import_tensorflow()
    from mrcnn.predictor import Predictor

    options = {"min_score": 0.05, "precision": args.precision, "batch_size": 1}
    predictor = Predictor.load(args.weights, **options)
    coco = COCO(str(args.annotations))
    measure("original", predictor, original_masks, coco, args)
    measure("stretched", predictor, full_masks, coco, args)
    measure("refined", predictor, full_masks, coco, args, refined=True)
    mirrored = Predictor.load(args.weights, tta=True, **options)
    measure("tta", mirrored, full_masks, coco, args)


if __name__ == "__main__":
    main()
