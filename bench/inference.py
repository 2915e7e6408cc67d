"""Times the inference command's work from disk to results beside the bare network, as JSON.

    python bench/inference.py --input FOLDER_OF_PHOTOS
    python bench/inference.py --input FOLDER_OF_PHOTOS --limit 64 --random resnet101 \
        --size 1024 --precision bfloat16
    python bench/inference.py --input FOLDER_OF_PHOTOS --memory 3000

The bare network is timed on the same prepared batches, before and after the pipeline (B P B),
so that a machine that slows down shows. --memory repeats the photos up to so many images and
tells resident memory as the run goes on. --random takes a backbone with random weights.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from mrcnn.commands.environment import assume_frozen_weights, import_tensorflow
from mrcnn.core.memory import share_heap
from mrcnn.core.reading import read_image
from mrcnn.inference.listing import list_images
from mrcnn.inference.pipeline import run_images
from mrcnn.inference.writers import DEFAULT, Outputs

START = time.perf_counter()


def make_predictor(args):
    """The `Predictor` of a weights file, or of a backbone that finds nothing in particular."""
    from mrcnn.predictor import Predictor

    options = {"batch_size": args.batch_size}
    if not args.random:
        return Predictor.load(args.weights, size=args.size, precision=args.precision, **options)
    from speed import tame

    from mrcnn.config import Config
    from mrcnn.model import MaskRCNN
    from mrcnn.network import layers

    size = args.size or 1024
    values = {"NAME": "bench", "NUM_CLASSES": 14, "BACKBONE": args.random, "IMAGES_PER_GPU": 1}
    values |= {"COMPUTE_DTYPE": args.precision, "IMAGE_MIN_DIM": size, "IMAGE_MAX_DIM": size}
    values |= {"DETECTION_MIN_CONFIDENCE": 0.0, "DETECTION_MAX_INSTANCES": 4}
    model = MaskRCNN("inference", Config.from_dict(values), "logs")
    tame(model.keras_model)
    model.random_layers = []
    bias = np.zeros(14, np.float32)
    bias[1] = 50  # every RoI answers "class 1": four garments an image, whatever the rest says
    model.keras_model.get_layer("mrcnn_class_logits").bias.assign(bias)
    layers.freeze(model.keras_model)
    return Predictor(model, **options)


def bare_rate(predictor, paths):
    """Images a second of the network alone, on batches that are prepared before."""
    prepared = [predictor.prepare(read_image(p)) for p in paths]
    size = predictor.batch_size
    batches = [prepared[i : i + size] for i in range(0, len(prepared), size)]
    start, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        predictor.detect(batch)
    seconds = time.perf_counter() - start
    return len(paths) / seconds, (time.process_time() - cpu) / len(paths)


def resident():
    """Resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watched:
    """A predictor that notes resident memory at every 100th image."""

    def __init__(self, predictor):
        self._predictor, self._count, self.memory = predictor, 0, {}

    def __getattr__(self, name):
        return getattr(self._predictor, name)

    def detect(self, batch):
        self._count += len(batch)
        if self._count % 100 < len(batch):
            self.memory[self._count] = round(resident())
        return self._predictor.detect(batch)


def repeated(paths, count, folder):
    """A folder with `count` links to the images in turn."""
    for i in range(count):
        path = paths[i % len(paths)]
        (folder / f"{i:05d}{path.suffix}").symlink_to(path.resolve())
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", default="input_folder")
    parser.add_argument("--weights", default="weights")
    parser.add_argument("--random", help="resnet50, resnet101 or mobilenet_v2")
    parser.add_argument("--size", type=int)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--save", default=",".join(DEFAULT))
    parser.add_argument("--memory", type=int, help="images of a long run")
    args = parser.parse_args()
    share_heap()
    assume_frozen_weights(True)
    import_tensorflow()
    predictor = make_predictor(args)
    paths = [p.path for p in list_images(args.input).images][: args.limit]
    list(predictor.stream(paths[:1]))
    report = {"pictures": len(paths), "first_result_s": round(time.perf_counter() - START, 2)}
    report["batch_size"] = predictor.batch_size
    with tempfile.TemporaryDirectory() as folder:
        count = args.memory or len(paths)
        source = Path(folder, "in")
        source.mkdir()
        repeated(paths, count, source)
        watched = Watched(predictor)
        before = bare_rate(predictor, paths)
        start, cpu = time.perf_counter(), time.process_time()
        outputs = Outputs(tuple(args.save.split(",")))
        run_images(watched, source, Path(folder, "out"), outputs, progress=False)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        after = bare_rate(predictor, paths)
    bare = (before[0] + after[0]) / 2
    report |= {
        "bare_per_s": [round(before[0], 2), round(after[0], 2)],
        "bare_cpu_s": round((before[1] + after[1]) / 2, 4),
        "pipeline_per_s": round(count / seconds, 2),
        "pipeline_cpu_s": round(cpu / count, 4),
        "share": round(count / seconds / bare, 3),
    }
    if args.memory:
        report["memory_mb"] = watched.memory
    print(json.dumps(report))


if __name__ == "__main__":
    main()
