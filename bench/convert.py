"""Times convert_to_coco.py and the loading of what it writes, at the size of DeepFashion2.

    python bench/convert.py make /tmp/big --pictures 191961     # drawn garments, linked many times
    python bench/convert.py run /tmp/big                        # whole command, memory of all processes
    python bench/convert.py run /tmp/big --keypoints
    python bench/convert.py run /tmp/big --limit 19196          # a tenth: is the time per image flat?
    python bench/convert.py read /tmp/big/out/train_coco.json training   # or evaluation, inspection

`make` writes the annotations of 2,000 made-up images, each with a JPEG of its size, and links
them under as many names as are asked for. Each other command prints one JSON line. Memory is the
largest sum of the resident sizes of the process and its children, looked at 50 times a second.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import orjson
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

DIFFERENT = 2000


def make(args):
    """A train split of links to `DIFFERENT` images and annotation files."""
    from mrcnn.deepfashion2.demo.scenes import demo_annotation

    base = args.folder / "base"
    base.mkdir(parents=True)
    for k in range(DIFFERENT):
        annotation, size = demo_annotation(k + 1)
        (base / f"{k}.json").write_bytes(orjson.dumps(annotation))
        Image.new("RGB", size, (120, 130, 140)).save(base / f"{k}.jpg", quality=50)
    for name in ("image", "annos"):
        (args.folder / "train" / name).mkdir(parents=True)
    for i in range(args.pictures):
        for name, suffix in (("image", "jpg"), ("annos", "json")):
            source = base / f"{i % DIFFERENT}.{suffix}"
            os.link(source, args.folder / "train" / name / f"{i + 1:06d}.{suffix}")


def run(args):
    """Converts, and prints seconds and the memory of all processes."""
    command = [sys.executable, ROOT / "convert_to_coco.py", "--data", args.folder]
    command += ["--splits", "train", "--output_dir", args.folder / "out"]
    command += ["--keypoints"] if args.keypoints else []
    command += ["--limit", args.limit] if args.limit else []
    command += ["--workers", args.workers] if args.workers else []
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            time.sleep(0.02)
    seconds = time.perf_counter() - start
    path = args.folder / "out" / "train_coco.json"
    pictures = args.limit or len(os.listdir(args.folder / "train" / "image"))
    report = {"status": process.returncode, "pictures": pictures, "keypoints": args.keypoints}
    report |= {"seconds": round(seconds, 1), "us_per_picture": round(1e6 * seconds / pictures)}
    report |= {"peak_mb": round(peak / 1e6), "file_mb": round(path.stat().st_size / 1e6)}
    print(json.dumps(report))


def tree_memory(pid):
    """Resident bytes of a process and its children, by /proc."""
    try:
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [c for t in tasks for c in (t / "children").read_text().split()]
    except OSError:  # it has just ended
        return 0
    return own + sum(tree_memory(int(child)) for child in children)


def read(args):
    """Reads a COCO file for one of its consumers, or for training and evaluation together."""
    from mrcnn.coco.ground_truth import read_ground_truth
    from mrcnn.coco.reader import read_coco
    from mrcnn.coco.statistics import read_completed, statistics
    from mrcnn.data.dataset import CocoDataset

    start = time.perf_counter()
    table = read_coco(args.annotations)
    report = {"for": args.consumer, "pictures": len(table.images), "garments": len(table)}
    report["table_seconds"] = round(time.perf_counter() - start, 1)
    if args.consumer in ("training", "both"):
        dataset = CocoDataset()
        dataset.load_coco(table, "")
        dataset.prepare()
    if args.consumer in ("evaluation", "both"):
        read_ground_truth(table)
    if args.consumer == "inspection":
        statistics(read_completed(table))
    report["seconds"] = round(time.perf_counter() - start, 1)
    report["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if args.consumer == "evaluation":
        masks = read_ground_truth(table).rles
        report["masks"] = len(masks)
        report["seconds_with_masks"] = round(time.perf_counter() - start, 1)
        report["peak_mb_with_masks"] = round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        )
    print(json.dumps(report))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    part = commands.add_parser("make")
    part.add_argument("folder", type=Path)
    part.add_argument("--pictures", type=int, default=191_961)
    part.set_defaults(run=make)
    part = commands.add_parser("run")
    part.add_argument("folder", type=Path)
    part.add_argument("--keypoints", action="store_true")
    part.add_argument("--limit", type=int)
    part.add_argument("--workers", type=int)
    part.set_defaults(run=run)
    part = commands.add_parser("read")
    part.add_argument("annotations", type=Path)
    part.add_argument("consumer", choices=["training", "evaluation", "inspection", "both"])
    part.set_defaults(run=read)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
