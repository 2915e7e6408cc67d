"""Times detect() and the training step on this machine, as one JSON line.

    python bench/speed.py detect --backbone resnet101 --size 1024 --precision bfloat16
    python bench/speed.py train --backbone resnet101 --size 512 --batch 2 --precision float32

The work is fixed, whatever the (random) weights find: 1000 proposals, 100 detections with
their masks pasted at the image's size, 14 classes; in training 200 sampled RoIs an image,
five objects in each, all layers. Run it in turn with what it is compared to (A B A B), with
nothing else running.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from mrcnn.commands.environment import import_tensorflow
from mrcnn.config import Config
from mrcnn.core.boxes import config_anchors

# (y1, x1, y2, x2) as shares of the image.
BOXES = [(0.1, 0.1, 0.6, 0.4), (0.4, 0.2, 0.9, 0.8), (0.05, 0.6, 0.4, 0.95)]
BOXES += [(0.5, 0.5, 0.9, 0.7), (0.7, 0.05, 0.95, 0.3)]


def make_config(args):
    """A `Config` of the original's defaults at the given size."""
    values = {
        "NAME": "bench",
        "NUM_CLASSES": 14,
        "BACKBONE": args.backbone,
        "COMPUTE_DTYPE": args.precision,
        "IMAGES_PER_GPU": args.batch,
        "IMAGE_MIN_DIM": args.size,
        "IMAGE_MAX_DIM": args.size,
        "DETECTION_MIN_CONFIDENCE": 0.0,
        "DETECTION_NMS_THRESHOLD": 1.0,
        "RPN_NMS_THRESHOLD": 0.7,
    }
    return Config.from_dict(values)


def tame(model):
    """Random weights under frozen batch norm double the signal block by block and overflow:
    damps each residual branch, as the peer's benchmark does."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name.startswith("res") and layer.name.endswith("branch2c"):
            layer.kernel.assign(rng.normal(0, 1e-3, layer.kernel.shape))


def detect_step(args):
    """A function that detects in one batch and returns the number of detections."""
    from mrcnn.model import MaskRCNN

    model = MaskRCNN("inference", make_config(args), "logs")
    tame(model.keras_model)
    model.random_layers = []
    # Every RoI answers "class 1": 100 detections whatever the rest says.
    bias = np.zeros(14, np.float32)
    bias[1] = 50
    model.keras_model.get_layer("mrcnn_class_logits").bias.assign(bias)
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (args.size, args.size, 3), np.uint8) for _ in range(args.batch)]
    return lambda: sum(len(r["rois"]) for r in model.detect(images))


def train_step(args):
    """A function that runs one training step and returns the loss."""
    from mrcnn.data.targets import build_rpn_targets
    from mrcnn.model import MaskRCNN
    from mrcnn.training.step import Trainer, make_optimizer, set_trainable

    config = make_config(args)
    model = MaskRCNN("training", config, "logs")
    tame(model.keras_model)
    set_trainable(model.keras_model, ".*")
    trainer = Trainer(model.keras_model, config, make_optimizer(config, 1e-5))

    boxes = (np.array(BOXES) * args.size).astype(np.int32)
    anchors = config_anchors(config, config.IMAGE_SHAPE)
    ids = np.arange(1, 6, dtype=np.int32)
    match, deltas = build_rpn_targets(config.IMAGE_SHAPE, anchors, ids, boxes, config)
    pad = config.MAX_GT_INSTANCES - len(boxes)
    one = [
        np.random.default_rng(1).normal(0, 60, (args.size, args.size, 3)).astype(np.float32),
        np.array([0, *[args.size, args.size, 3] * 2, 0, 0, args.size, args.size, 1, *[1] * 14]),
        match[:, None],
        deltas.astype(np.float32),
        np.pad(ids, (0, pad)),
        np.pad(boxes, ((0, pad), (0, 0))),
        np.pad(np.ones((*config.MINI_MASK_SHAPE, len(boxes)), bool), ((0, 0), (0, 0), (0, pad))),
    ]
    dtypes = [np.float32, np.float32, np.int32, np.float32, np.int32, np.float32, bool]
    batch = [np.stack([x] * args.batch).astype(d) for x, d in zip(one, dtypes, strict=True)]
    return lambda: float(trainer.train(batch)["loss"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=["detect", "train"])
    parser.add_argument("--backbone", default="resnet101", help="resnet50, resnet101, mobilenet_v2")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    import_tensorflow()
    step = {"detect": detect_step, "train": train_step}[args.work](args)
    step(), step()
    seconds = []
    for _ in range(args.runs):
        start = time.perf_counter()
        last = step()
        seconds.append(time.perf_counter() - start)
    per = args.batch if args.work == "detect" else 1
    print(
        json.dumps(
            {
                "work": args.work,
                "backbone": args.backbone,
                "size": args.size,
                "batch": args.batch,
                "precision": args.precision,
                "seconds": round(statistics.median(seconds) / per, 4),
                "runs": [round(s / per, 4) for s in seconds],
                "detections_or_loss": last,
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
