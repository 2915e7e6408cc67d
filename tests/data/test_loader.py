"""`BatchLoader`'s promises on data with outlines: shards, repeats, negatives, ends and memory.

What holds for any data set is tested in test_generators.py.
"""

import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mrcnn.data.dataset import CocoDataset
from mrcnn.data.policy import DEFAULT
from mrcnn.data.samples import Sampler
from mrcnn.data.sampling import image_weights
from tests.helpers import ROOT
from tests.helpers.augmenters import varied
from tests.helpers.coco_files import config, loader, read_data, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return read_data(write_data(tmp_path_factory.mktemp("data")))


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for array, same in zip(batch, other, strict=True):
            assert array.dtype == same.dtype
            np.testing.assert_array_equal(array, same)


EVERYTHING = dataclasses.replace(DEFAULT, paste=0.7, occlusion=0.7, blur=0.5)


@pytest.mark.parametrize("augmentation", [None, EVERYTHING, "imgaug"])
def test_batches_depend_on_seed_epoch_and_position_only(data, augmentation):
    augmentation = varied(0.3) if augmentation == "imgaug" else augmentation

    def run(**values):
        batches = loader(data, augmentation=augmentation, **values).epoch(2, 3)
        return list(batches)

    first = run()
    assert_same(first, run(workers=1))
    assert_same(first, run(workers=3, prefetch=5))
    assert_same(first[:2], loader(data, augmentation=augmentation).epoch(2, 2))
    assert any((a[0] != b[0]).any() for a, b in zip(first, run(seed=1), strict=True))


def test_the_images_of_a_batch_are_known(data):
    batches = loader(data)
    order = batches.image_ids_of(1, 3)
    assert order.shape == (3, 4)
    for image_ids, batch in zip(order, batches.epoch(1, 3), strict=True):
        assert batch[1][:, 0].tolist() == image_ids.tolist()
    assert sorted(order.ravel()[:7].tolist()) == list(range(7))


@pytest.mark.parametrize("count", [2, 4])
def test_shards_together_are_the_batch(data, count):
    whole = list(loader(data, augmentation=EVERYTHING).epoch(1, 3))
    parts = [
        list(loader(data, augmentation=EVERYTHING, shard=(i, count), workers=2).epoch(1, 3))
        for i in range(count)
    ]
    assert parts[0][0][0].shape[0] == 4 // count
    joined = [
        [np.concatenate(arrays) for arrays in zip(*step, strict=True)]
        for step in zip(*parts, strict=True)
    ]
    assert_same(whole, joined)


def test_shards_and_factors_that_do_not_fit_are_refused(data):
    for shard in ((0, 3), (2, 2), (-1, 2)):
        with pytest.raises(ValueError, match="must be a multiple of the number of shards"):
            loader(data, shard=shard)
    with pytest.raises(ValueError, match="pass what image_weights"):
        loader(data, repeat_factors=[1, 2])


def test_augmenters_that_would_forget_the_masks_are_refused_at_once(data):
    from imgaug import augmenters as iaa

    with pytest.raises(ValueError, match="would not move their masks"):
        loader(data, augmentation=iaa.Lambda(func_images=lambda images, *_: images))
    with pytest.raises(TypeError, match="augmentation is a list"):
        loader(data, augmentation=[])


def test_no_augmentation_for_the_sources_given(data):
    plain = list(loader(data).epoch(0))
    assert_same(plain, loader(data, augmentation=DEFAULT, no_augmentation_sources=["own"]).epoch(0))


def test_the_originals_generator_takes_policies_too(data):
    from mrcnn.data.generators import data_generator

    def run():
        np.random.seed(4)
        generator = data_generator(data, config(), augmentation=EVERYTHING, batch_size=2)
        return [next(generator)[0] for _ in range(2)]

    assert_same(run(), run())


def test_repeated_images_come_more_often(data):
    # Images 1, 4 (skirt, shirt), 2, 5 (shirt, skirt); 0, 3, 6 have none.
    weights = image_weights(data, focus={"skirt": 3})
    assert weights.tolist() == [1, 3, 1, 1, 1, 3, 1]
    batches = loader(data, batch_size=1, repeat_factors=weights)
    assert len(batches) == 11
    visits = batches.image_ids_of(0).ravel()
    np.testing.assert_array_equal(np.bincount(visits), weights)
    assert len(list(batches.epoch(0, 2))) == 2


def test_short_epochs_share_a_pass(data):
    """Of 7 images in epochs of 2, three epochs see 6 different ones before a new pass begins."""
    batches = loader(data, batch_size=2)
    epochs = [batches.image_ids_of(epoch, steps=1).ravel() for epoch in range(6)]
    for first in (0, 3):
        seen = np.concatenate(epochs[first : first + 3])
        assert len(set(seen.tolist())) == 6
    assert np.concatenate(epochs[:3]).tolist() != np.concatenate(epochs[3:]).tolist()
    # An epoch of more than half a pass has one of its own, and follows from its number alone.
    longer = [loader(data, batch_size=2).image_ids_of(epoch, steps=2) for epoch in (1, 1, 2)]
    np.testing.assert_array_equal(longer[0], longer[1])
    assert longer[0].tolist() != longer[2].tolist()
    assert loader(data, batch_size=2).image_ids_of(5, steps=0).shape == (0, 2)


def test_short_epochs_share_a_pass_of_repeated_images(data):
    factors = np.full(7, 2.5)
    batches = loader(data, batch_size=7, repeat_factors=factors)
    pair = np.concatenate([batches.image_ids_of(epoch, steps=1).ravel() for epoch in (2, 3)])
    counts = np.bincount(pair, minlength=7)
    assert counts.sum() == 14 and counts.max() <= 3


def test_short_epochs_without_shuffling_are_all_the_same(data):
    batches = loader(data, batch_size=2, shuffle=False)
    assert [batches.image_ids_of(epoch, steps=1).tolist() for epoch in (0, 1)] == [[[0, 1]]] * 2


def test_images_without_objects_are_negatives(data):
    (batch,) = loader(data, batch_size=1, shuffle=False).epoch(0, 1)
    images, _, match, deltas, class_ids, boxes, masks = batch
    assert images.any()
    assert not (deltas.any() or class_ids.any() or boxes.any() or masks.any())
    assert set(np.unique(match)) == {-1, 0}
    assert (match == -1).sum() == 256


def test_crowds_keep_their_negative_ids(data):
    (batch,) = loader(data, batch_size=3, shuffle=False).epoch(0, 1)
    assert batch[4][2].tolist() == [1, -1, 0, 0, 0]
    assert batch[6][2, ..., :2].any(axis=(0, 1)).all()


def test_molding_into_the_batch_is_molding(data):
    sampler = Sampler(data, config(), None, None)
    out = np.empty((64, 64, 3), np.float32)
    inputs, _ = sampler.load(1, np.random.default_rng(0), out=out)
    assert inputs[0] is out
    alone, _ = sampler.load(1, np.random.default_rng(0))
    np.testing.assert_allclose(out, alone[0], atol=1e-5)


def test_images_of_a_data_set_without_opencv(data, monkeypatch):
    """Own masks don't need OpenCV, so nothing of the loader may."""

    class Own(CocoDataset):
        def load_mask(self, image_id):
            return super().load_mask(image_id)

    own = Own()
    own.__dict__.update(data.__dict__)
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert len(list(loader(own, workers=1).epoch(0, 2))) == 2


# --- Ends and memory --------------------------------------------------------------------------


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("batch-loader")]


def test_an_error_among_the_images_ends_the_threads(data, tmp_path):
    broken = read_data(write_data(tmp_path))
    (tmp_path / "5.png").write_bytes(b"no image")
    batches = loader(broken, shuffle=False, workers=2).epoch(0)
    next(batches)
    with pytest.raises(RuntimeError, match=r"5\.png.*cannot be read"):
        next(batches)
    assert not loader_threads()


def test_a_consumer_that_fails_ends_the_threads(data):
    batches = loader(data, workers=2).epoch(0, 50)
    with pytest.raises(KeyboardInterrupt):
        for _ in batches:
            raise KeyboardInterrupt
    del batches
    deadline = time.monotonic() + 5
    while loader_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not loader_threads()


SCRIPT = """
import os, signal, sys, threading
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.helpers.coco_files import loader, read_data
batches = loader(read_data(Path({folder!r})), workers=2, prefetch=3).epoch(0, 1000)
for i, batch in enumerate(batches):
    if i == 2:
        {end}
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGINT); threading.Event().wait(5)", (-2, 130, 1)),
        ("sys.exit(7)", (7,)),
        ("globals()['kept'] = batches; raise ValueError", (1,)),
    ],
)
def test_a_process_ends_at_once(data, end, code):
    """Interrupted, leaving in the middle, or with the generator still open."""
    folder = str(Path(data.image_info[0]["path"]).parent)
    script = SCRIPT.format(root=str(ROOT), folder=folder, end=end)
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30)
    assert process.returncode in code, process.stderr.decode()


MEMORY = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.helpers.coco_files import config, loader, read_data
from mrcnn.data.policy import DEFAULT
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
batches = loader(
    read_data(Path({folder!r})), workers=2, augmentation=DEFAULT, config=config(256)
)
sizes = []
for epoch in range(4):
    for batch in batches.epoch(epoch, 25):
        pass
    sizes.append(resident())
print(*sizes)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_stays_flat_over_epochs(data):
    folder = str(Path(data.image_info[0]["path"]).parent)
    script = MEMORY.format(root=str(ROOT), folder=folder)
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, text=True, check=True
    )
    first, *rest = (int(value) for value in process.stdout.split())
    # A leak of one image a batch would be 25 * 3 epochs * 786 kB = 59 MB.
    assert max(rest) - first < 12e6
