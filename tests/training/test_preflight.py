"""What would end a training hours later is found before the first epoch, and nothing else is."""

import os
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn.data.dataset import CocoDataset, Dataset
from mrcnn.training import preflight
from mrcnn.training.preflight import (
    check_classes,
    check_disk,
    check_files,
    check_images,
    try_step,
)

NAMES = ["long_sleeved_shirt", "trousers", "sling"]


class Labels(Dataset):
    """Images of files, and the class ids of their objects."""

    def __init__(self, paths, labels=None, **values):
        super().__init__()
        for i, name in enumerate(NAMES, 1):
            self.add_class("own", i, name)
        for i, path in enumerate(paths):
            more = {} if labels is None else {"annotations": labels[i]}
            self.add_image("own", i, path, **values, **more)
        self.prepare()

    def load_class_ids(self, image_id):
        return np.array(self.image_info[image_id]["annotations"], np.int32)


def images(folder, count, width=40, height=30, kind="jpg"):
    rng = np.random.default_rng(1)
    paths = [folder / f"{i}.{kind}" for i in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(path)
    return paths


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# --- Files --------------------------------------------------------------------------------------


def test_every_image_file_is_looked_for(tmp_path):
    """A sample would hardly meet the one of thousands that is missing."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = images(tmp_path / "a", 3) + images(tmp_path / "b", 3)
    assert check_files(Labels([*paths, None]), "train") == []
    assert check_files(Labels([]), "train") == []
    paths[4].unlink()
    assert check_files(Labels(paths), "train") == [f"train: {paths[4]} does not exist"]
    shutil.rmtree(tmp_path / "a")
    gone = check_files(Labels([*paths, *paths]), "train")
    assert len(gone) == 6 and gone[-1] == "train: and 3 more of 12 images do not exist"


def test_files_that_are_there_though_not_listed_are_not_missing(tmp_path, monkeypatch):
    paths = images(tmp_path, 2)
    monkeypatch.setattr(preflight, "_listing", lambda folder: set())
    assert check_files(Labels(paths), "train") == []


# --- Images -----------------------------------------------------------------------------------


def test_sound_images_pass(tmp_path):
    paths = images(tmp_path, 3)
    assert check_images(Labels(paths, width=40, height=30), "train") == []
    assert check_images(Labels(map(str, paths)), "train") == []
    assert check_images(Labels(paths, width=None, height=None), "train") == []
    assert check_images(Labels([]), "train") == []


def test_drawn_images_pass():
    class Drawn(Labels):
        def load_image(self, image_id):
            raise AssertionError("drawing takes time, and no file can be wrong")

    assert check_images(Drawn([None, "", None], width=9, height=9), "train") == []


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_damage_is_found_and_named(tmp_path, kind):
    paths = images(tmp_path, 5, kind=kind)
    paths[0].unlink()
    cut(paths[1])  # its head is sound: only reading all of it shows that half is gone
    paths[2].write_bytes(b"<html>not found</html>")
    paths[3].write_bytes(b"")
    findings = check_images(Labels(paths, width=40, height=30), "validation")
    assert [f.split(" ")[1] for f in findings] == [str(p) for p in paths[:4]]
    assert all(f.startswith("validation: ") for f in findings)
    for finding, words in zip(
        findings, ("does not exist", "cannot be read", "not an image", "is empty"), strict=True
    ):
        assert words in finding


def test_images_of_another_size_are_found(tmp_path):
    paths = images(tmp_path, 2)
    turned = Image.open(paths[1])
    exif = turned.getexif()
    exif[0x0112] = 6  # lies on its side: annotations are for the pixels as stored
    turned.save(paths[1], exif=exif)
    assert check_images(Labels(paths, width=40, height=30), "train") == []
    findings = check_images(Labels(paths[:1], width=30, height=40), "train")
    assert findings == [
        f"train: {paths[0]} is 40x30 (width x height) but its annotations are for 30x40"
    ]


def test_images_of_a_coco_file(tmp_path):
    (path,) = images(tmp_path, 1)
    coco = CocoDataset()
    coco.add_image("own", 1, str(path), width=40, height=31, annotations=[])
    coco.prepare()
    (finding,) = check_images(coco, "train")
    assert finding.startswith(f"train: {path} is 40x30 (width x height) but its annotations")
    assert finding.count(str(path)) == 1


def test_whatever_reading_raises_is_a_finding(tmp_path):
    class Own(Labels):
        def load_image(self, image_id):
            raise [KeyError("colour"), RuntimeError()][image_id]

    findings = check_images(Own(["a.raw", "b.raw"]), "train")
    assert findings == ["train: a.raw: 'colour'", "train: b.raw: RuntimeError"]


def test_many_findings_are_counted(tmp_path):
    paths = [tmp_path / f"{i}.jpg" for i in range(9)]
    assert len(check_images(Labels(paths[:5]), "train")) == 5
    findings = check_images(Labels(paths), "train")
    assert len(findings) == 6 and findings[5] == "train: and 4 more of the 9 images read"


def test_a_sample_depends_on_the_seed_alone(tmp_path):
    paths = [tmp_path / f"{i}.jpg" for i in range(400)]
    few = [check_images(Labels(paths), "train", seed, sample=4) for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2] and [len(f) for f in few] == [4, 4, 4]
    assert check_images(Labels(paths), "train")[5].endswith("195 more of the 200 images read")


def test_slow_images_are_fewer(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "SECONDS", -1)
    assert len(check_images(Labels([tmp_path / "1.jpg", tmp_path / "2.jpg"]), "train")) == 1


# --- Classes ------------------------------------------------------------------------------------


def test_classes_without_examples_are_named():
    assert check_classes(Labels([None] * 2, [[1, 2], [3]]), "train") == []
    assert check_classes(Labels([None] * 3, [[2], [], [2]]), "train") == [
        "train: no example of long_sleeved_shirt, sling"
    ]
    crowd = Labels([None], [[1, -2, 3]])
    assert check_classes(crowd, "validation") == ["validation: no example of trousers"]


def test_no_objects_at_all():
    for labels in ([], [[], []], [[-1]]):
        dataset = Labels([None] * len(labels), labels)
        assert check_classes(dataset, "train") == ["train: no image has an object"]


def test_without_annotations_classes_are_not_known():
    assert check_classes(Labels([None, None]), "train") == []


# --- Disk ---------------------------------------------------------------------------------------


@pytest.fixture
def free(monkeypatch):
    """Sets the free space that the disk tells of."""

    def tell(count):
        usage = namedtuple("usage", "total used free")(10**12, 10**12 - count, count)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    return tell


def test_enough_space(tmp_path, free):
    # 3 checkpoints and 2 more for a moment, each with its state, and the best: 11 files
    free(1100)
    assert check_disk(tmp_path, 100, keep=3) == []
    free(1099)
    (finding,) = check_disk(tmp_path, 100, keep=3)
    assert finding.endswith(f"are free in {tmp_path}; make room, or keep fewer (--keep)")
    free(700)
    assert check_disk(tmp_path, 100, keep=1) == []
    free(5_000_000_000)
    (finding,) = check_disk(str(tmp_path), 10**9, keep=3)
    assert finding.startswith("checkpoints need 11.0 GB but 5.0 GB are free")


def test_checkpoints_that_are_there_make_room_for_new_ones(tmp_path, free):
    for name in ("mask_rcnn_a_0001.h5", "mask_rcnn_a_0001.state.h5", "mask_rcnn_b.h5"):
        (tmp_path / name).write_bytes(bytes(100))
    os.link(tmp_path / "mask_rcnn_a_0001.h5", tmp_path / "best.h5")
    free(900)
    assert check_disk(tmp_path, 100, keep=3) == []
    free(899)
    assert len(check_disk(tmp_path, 100, keep=3)) == 1


def test_the_folder_is_not_made(tmp_path, free):
    free(1100)
    assert check_disk(tmp_path / "logs" / "run", 100, keep=3) == []
    assert list(tmp_path.iterdir()) == []


def test_a_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_disk("logs/run", 1, keep=1) == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "logs").write_text("not a folder")
    for folder in (tmp_path / "logs" / "run", tmp_path / "logs"):
        (finding,) = check_disk(folder, 100, keep=3)
        assert finding.startswith(f"the run folder {folder} can't be written to (")


def test_a_folder_that_must_not_be_written_to():
    """Permissions don't bind root, so root becomes nobody for the moment."""
    root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    try:
        if root:
            os.seteuid(65534)
        findings = [check_disk(place, 100, keep=3) for place in (folder, folder / "logs" / "run")]
        (own,) = check_disk(folder, 100, keep=3)
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        folder.rmdir()
    assert own.startswith(f"the run folder {folder} can't be written to (")
    assert all(len(found) == 1 and "Permission denied" in found[0] for found in findings)


# --- One step -----------------------------------------------------------------------------------


class Trainer:
    """Gives losses, or raises them."""

    def __init__(self, *answers):
        self.answers, self.batches = list(answers), []

    def gradients(self, batch):
        self.batches.append(batch)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer, []


BATCH = [np.zeros((4, 8, 8, 3), np.float32)]


@pytest.mark.tf
def test_a_step_that_goes_well():
    import tensorflow as tf

    losses = {"loss": tf.constant(2.5), "rpn_class_loss": np.float32(1), "mrcnn_mask_loss": 0.0}
    trainer = Trainer(losses, losses)
    findings, facts = try_step(trainer, BATCH)
    assert findings == [] and set(facts) == {"first_seconds", "seconds", "peak_gb"}
    assert all(value > 0 for value in facts.values()) and 0.05 < facts["peak_gb"] < 100
    assert len(trainer.batches) == 2 and all(batch is BATCH for batch in trainer.batches)


@pytest.mark.tf
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_is_named(value):
    losses = {"loss": value, "rpn_class_loss": 1.5, "mrcnn_mask_loss": value}
    (finding,), facts = try_step(Trainer(losses, losses), BATCH)
    assert finding.startswith("the first batch gives {'loss': ")
    assert finding.endswith("}: loss, mrcnn_mask_loss not finite") and "seconds" in facts


@pytest.mark.tf
def test_out_of_memory_says_what_to_do():
    import tensorflow as tf

    good = {"loss": 1.0}
    for error in (
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nand so on"),
        MemoryError(),
    ):
        for answers in ((error,), (good, error)):
            (finding,), facts = try_step(Trainer(*answers), BATCH)
            assert "a step of 4 images does not fit into memory" in finding
            assert "--accumulate" in finding and "and so on" not in finding and facts == {}
    assert finding.endswith("(MemoryError)")
    with pytest.raises(ZeroDivisionError):
        try_step(Trainer(ZeroDivisionError()), BATCH)
