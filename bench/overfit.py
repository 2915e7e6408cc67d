"""Can training learn a few images by heart? Prints the losses before and after, as JSON.

    python bench/overfit.py --data .../street_fashion_mini --annotations coco

The compact model, from COCO's MobileNetV2, trains on the train split without augmentation; the
validation loss is that of the same images. The L2 term is left out of the comparison: it is
no matter of the data.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mrcnn.commands.data_sets import data_paths, load_split
from mrcnn.commands.environment import import_tensorflow


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--logs", default="/tmp/overfit")
    args = parser.parse_args()
    dataset = load_split(data_paths(args), "train")
    import_tensorflow()
    import keras

    from mrcnn.config import LOSS_NAMES
    from mrcnn.model import MaskRCNN
    from mrcnn.network import pretrained
    from mrcnn.presets import CompactConfig
    from mrcnn.training.schedules import CosineSchedule

    steps = -(-dataset.num_images // args.batch_size)
    values = {"IMAGES_PER_GPU": args.batch_size, "STEPS_PER_EPOCH": steps}
    values |= {"VALIDATION_STEPS": steps, "IMAGE_MIN_DIM": args.size, "IMAGE_MAX_DIM": args.size}
    keras.utils.set_random_seed(0)
    model = MaskRCNN("training", CompactConfig.from_dict(values), args.logs)
    backbone = pretrained.shipped(pretrained.MOBILENET_COCO)
    pretrained.load_mobilenet_v2(model.keras_model, backbone)
    start = losses_now(model, dataset, steps)
    epochs = max(1, args.steps // steps)
    rows = model.train(
        dataset,
        dataset,
        args.lr,
        epochs,
        "all",
        schedule=CosineSchedule(args.lr, epochs * steps, warmup=20),
        seed=0,
    )
    first = sum(start[name] for name in LOSS_NAMES)
    last = sum(rows[-1][f"val_{name}"] for name in LOSS_NAMES)
    report = {"steps": epochs * steps, "before": round(first, 3), "after": round(last, 3)}
    report["ratio"] = round(last / first, 3)
    report |= {
        name: [round(start[name], 3), round(rows[-1][f"val_{name}"], 3)] for name in LOSS_NAMES
    }
    print(json.dumps(report))


def losses_now(model, dataset, steps):
    """Mean of each loss over the images, as validation takes it."""
    from mrcnn.data.loader import BatchLoader
    from mrcnn.training.step import Trainer, make_optimizer

    config = model.config
    trainer = Trainer(model.keras_model, config, make_optimizer(config, 0.1), seed=0)
    loader = BatchLoader(dataset, config, batch_size=config.BATCH_SIZE, shuffle=False)
    batches = [trainer.validate(batch) for batch in loader.epoch(0, steps)]
    return {name: sum(float(b[name]) for b in batches) / steps for name in batches[0]}


if __name__ == "__main__":
    main()
