"""Loading and batching: recorded numbers of the original, augmentation, the loaders' promises."""

import hashlib
import json
import random
import threading

import numpy as np
import pytest
from PIL import Image

from mrcnn.config import Config
from mrcnn.data.dataset import Dataset
from mrcnn.data.generators import DataGenerator, data_generator
from mrcnn.data.loader import BatchLoader
from mrcnn.data.samples import load_image_gt
from tests.helpers import GOLDEN
from tests.helpers.augmenters import varied

INPUTS = ["images", "image_meta", "rpn_match", "rpn_bbox", "gt_class_ids", "gt_boxes", "gt_masks"]


def config(**values):
    defaults = {
        "NUM_CLASSES": 14,
        "IMAGE_MIN_DIM": 256,
        "IMAGE_MAX_DIM": 256,
        "RPN_ANCHOR_SCALES": (16, 32, 64, 128, 256),
        "MAX_GT_INSTANCES": 10,
    }
    return type("OwnConfig", (Config,), defaults | values)()


# --- The original's numbers -------------------------------------------------------------------


class Ellipses(Dataset):
    """The data set that the recordings were made with."""

    def __init__(self, images, ellipses):
        super().__init__()
        self.images, self.ellipses = images, ellipses
        for class_id in range(1, 14):
            self.add_class("golden", class_id, f"class {class_id}")
        for name, _ in ellipses:
            self.add_image("golden", name, name)
        self.prepare()

    def load_image(self, image_id):
        return self.images[self.image_info[image_id]["path"]]

    def load_mask(self, image_id):
        rows, columns = np.indices(self.load_image(image_id).shape[:2])
        masks = []
        for _, (cy, cx), (ry, rx), angle in self.ellipses[image_id][1]:
            dy, dx = rows - cy, columns - cx
            u = dy * np.cos(angle) + dx * np.sin(angle)
            v = dx * np.cos(angle) - dy * np.sin(angle)
            masks.append(u**2 / ry**2 + v**2 / rx**2 <= 1)
        class_ids = [ellipse[0] for ellipse in self.ellipses[image_id][1]]
        return np.stack(masks, axis=-1), np.array(class_ids, np.int32)


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "load_gt.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def about():
    return json.loads((GOLDEN / "load_gt.json").read_text())


@pytest.fixture(scope="module")
def ellipses(about):
    with np.load(GOLDEN / "images.npz") as images:
        return Ellipses(dict(images), about["ellipses"])


MODES = {
    "square": {},
    "square512": {"IMAGE_MIN_DIM": 400, "IMAGE_MAX_DIM": 512},
    "crop": {"IMAGE_RESIZE_MODE": "crop"},
    "pad64": {"IMAGE_RESIZE_MODE": "pad64"},
}


@pytest.mark.parametrize("mini", [False, True])
@pytest.mark.parametrize("image_id", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_ground_truth_is_the_originals(ellipses, recorded, about, mode, image_id, mini):
    random.seed(21 + image_id)
    image, meta, class_ids, bbox, mask = load_image_gt(
        ellipses, config(**MODES[mode]), image_id, use_mini_mask=mini
    )
    key = f"{mode}.{image_id}.{'mini' if mini else 'full'}"
    assert [image.dtype, class_ids.dtype, bbox.dtype, mask.dtype] == ["u1", "i4", "i4", bool]
    np.testing.assert_array_equal(class_ids, recorded[f"{key}.class_ids"])
    np.testing.assert_array_equal(bbox, recorded[f"{key}.bbox"])
    assert list(mask.shape) == recorded[f"{key}.mask_shape"].tolist()
    np.testing.assert_array_equal(np.packbits(mask), recorded[f"{key}.mask_packed"])
    if mini:
        return
    np.testing.assert_array_equal(meta, recorded[f"{key}.meta"])
    assert list(image.shape) == about[f"{key}.image"]["shape"]
    if meta[11] == 1:
        assert hashlib.sha256(image.tobytes()).hexdigest() == about[f"{key}.image"]["sha256"]
    elif f"{key}.image" in recorded:  # see resize_image on the single grey level
        np.testing.assert_allclose(image.astype(int), recorded[f"{key}.image"], rtol=0, atol=1)


def test_generator_is_the_originals(ellipses, recorded, about):
    np.random.seed(31)
    generator = data_generator(
        ellipses, config(), batch_size=2, random_rois=50, detection_targets=True
    )
    for n in range(2):
        inputs, outputs = next(generator)
        names = [*INPUTS, "rpn_rois", "rois", "mrcnn_class_ids", "mrcnn_bbox", "mrcnn_mask"]
        for name, array in zip(names, inputs + outputs, strict=True):
            key = f"generator.{n}.{name}"
            assert [list(array.shape), str(array.dtype)] == about[key], name
            if key in recorded:
                np.testing.assert_allclose(array, recorded[key], rtol=1e-5, atol=1e-5)
            else:
                sums = array.reshape(2, -1).sum(axis=1, dtype=np.float64)
                # 20 of an image's 200,000 values are a grey level off.
                atol = 20 if name == "images" else 1e-3
                np.testing.assert_allclose(sums, recorded[f"{key}.sum"], rtol=1e-6, atol=atol)


# --- One image ------------------------------------------------------------------------------


class Rectangles(Dataset):
    """Images that are black but for their objects: rectangles given as (y1, x1, y2, x2)."""

    def __init__(self, images, sources=("own",), shape=(64, 64)):
        super().__init__()
        self.shape = shape
        for class_id in range(1, 14):
            self.add_class(sources[0], class_id, f"class {class_id}")
        for i, boxes in enumerate(images):
            self.add_image(sources[i % len(sources)], i, f"image{i}.png", boxes=boxes)
        self.prepare()

    def load_image(self, image_id):
        mask, _ = self.load_mask(image_id)
        image = np.zeros((*self.shape, 3), np.uint8)
        image[mask.any(axis=-1)] = 200
        # Tells the image in a batch, whatever is done to it.
        image[:2, :, 0] = 10 + image_id
        return image

    def load_mask(self, image_id):
        boxes = self.image_info[image_id]["boxes"]
        mask = np.zeros((*self.shape, len(boxes)), bool)
        for i, (y1, x1, y2, x2) in enumerate(boxes):
            mask[y1:y2, x1:x2, i] = True
        return mask, np.arange(1, len(boxes) + 1, dtype=np.int32)


def tiny(**values):
    return config(**({"IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 64} | values))


BOX = (10, 20, 30, 50)


def test_augmentation_moves_images_and_masks_together():
    from imgaug import augmenters as iaa

    many = [(y, 5 * y, y + 9, 5 * y + 8) for y in range(10)] + [BOX]  # more than a byte of masks
    dataset = Rectangles([many])
    image, _, class_ids, bbox, mask = load_image_gt(
        dataset, tiny(), 0, augmentation=iaa.Sequential([iaa.Sometimes(1.0, iaa.Fliplr(1.0))])
    )
    expected, _ = dataset.load_mask(0)
    np.testing.assert_array_equal(mask, expected[:, ::-1])
    np.testing.assert_array_equal(image, dataset.load_image(0)[:, ::-1])
    assert mask.dtype == bool
    assert bbox[-1].tolist() == [10, 64 - 50, 30, 64 - 20]
    assert class_ids.tolist() == list(range(1, 12))


@pytest.mark.parametrize("seed", range(6))
def test_random_moves_are_the_same_for_image_and_mask(seed):
    from imgaug import augmenters as iaa

    move = iaa.OneOf(
        [
            iaa.Affine(rotate=(-30, 30), scale=(0.5, 1.5), order=0),
            iaa.SomeOf((1, None), [iaa.Flipud(0.5), iaa.ScaleX((0.7, 1.3))]),
            iaa.Sequential([iaa.PerspectiveTransform((0.01, 0.1)), iaa.Fliplr(0.5)]),
        ]
    )
    move.seed_(seed)  # and all that is in it
    image, _, _, _, mask = load_image_gt(Rectangles([[BOX]]), tiny(), 0, augmentation=move)
    assert 0 < mask.sum() < mask.size
    # Away from the edges, where interpolation may differ by a pixel.
    assert ((image[:, :, 1] > 100) != mask[:, :, 0]).mean() < 0.02


def test_colours_change_images_only():
    from imgaug import augmenters as iaa

    image, _, _, bbox, _ = load_image_gt(
        Rectangles([[BOX]]), tiny(), 0, augmentation=iaa.Multiply(0.5)
    )
    assert image.max() == 100
    assert bbox.tolist() == [list(BOX)]


def test_objects_that_leave_the_image_are_dropped():
    from imgaug import augmenters as iaa

    dataset = Rectangles([[(0, 0, 10, 10), BOX]])
    shift = iaa.Affine(translate_px={"x": -15})
    _, _, class_ids, bbox, mask = load_image_gt(
        dataset, tiny(), 0, augmentation=shift, use_mini_mask=True
    )
    assert class_ids.tolist() == [2]
    assert bbox.tolist() == [[10, 5, 30, 35]]
    assert mask.shape == (56, 56, 1)
    gone = iaa.Affine(translate_px={"x": -60})
    out = load_image_gt(dataset, tiny(), 0, augmentation=gone, use_mini_mask=True)
    assert [x.shape for x in out[2:]] == [(0,), (0, 4), (56, 56, 0)]


def test_an_image_without_objects_can_be_augmented():
    for use_mini_mask, shape in ((False, (64, 64, 0)), (True, (56, 56, 0))):
        _, _, class_ids, bbox, mask = load_image_gt(
            Rectangles([[]]),
            tiny(),
            0,
            augmentation=varied(),
            use_mini_mask=use_mini_mask,
        )
        assert (class_ids.shape, class_ids.dtype) == ((0,), np.int32)
        assert (bbox.shape, bbox.dtype) == ((0, 4), np.int32)
        assert (mask.shape, mask.dtype) == (shape, bool)


def test_the_base_class_without_masks_loads_as_empty(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    dataset = Dataset()
    dataset.add_image("own", 1, tmp_path / "a.png")
    dataset.prepare()
    with pytest.warns(UserWarning, match="override load_mask"):
        *_, mask = load_image_gt(dataset, tiny(), 0)
    assert mask.shape == (64, 64, 0)


def test_augmenters_that_would_forget_the_masks_are_refused():
    from imgaug import augmenters as iaa

    class Roll(iaa.Augmenter):
        def _augment_images(self, images, random_state, parents, hooks):
            return [np.roll(image, 5, axis=1) for image in images]

        def get_parameters(self):
            return []

    forgetful = iaa.Lambda(func_images=lambda images, *_: images)
    for augmenter, name in ((Roll(), "Roll"), (forgetful, "Lambda")):
        with pytest.raises(ValueError, match=f"{name} .* would not move their masks"):
            load_image_gt(Rectangles([[BOX]]), tiny(), 0, augmentation=iaa.Sequential([augmenter]))


def test_augmentation_that_is_none_or_changes_the_size_is_refused():
    from imgaug import augmenters as iaa

    dataset = Rectangles([[BOX]])
    with pytest.raises(TypeError, match=r"is a list.*Sequential"):
        load_image_gt(dataset, tiny(), 0, augmentation=[iaa.Fliplr(0.5)])
    with pytest.raises(ValueError, match=r"from \(64, 64, 3\) to \(32, 32, 3\)"):
        load_image_gt(dataset, tiny(), 0, augmentation=iaa.Resize(0.5))


def test_augment_true_mirrors_and_is_deprecated():
    dataset = Rectangles([[BOX]])
    lefts = set()
    for seed in range(8):
        random.seed(seed)
        with pytest.warns(DeprecationWarning, match="augmentation="):
            lefts.add(load_image_gt(dataset, tiny(), 0, augment=True)[3][0, 1].item())
    assert lefts == {20, 14}


def test_masks_that_do_not_fit_are_refused():
    class Wrong(Rectangles):
        def load_mask(self, image_id):
            mask, class_ids = super().load_mask(image_id)
            return self.wrong(mask, class_ids)

        def load_image(self, image_id):
            return np.zeros((64, 64, 3), np.uint8)

    dataset = Wrong([[BOX]])
    dataset.wrong = lambda mask, class_ids: (mask[:50], class_ids)
    with pytest.raises(ValueError, match=r"shape \(50, 64, 1\) for the image image0.png"):
        load_image_gt(dataset, tiny(), 0)
    dataset.wrong = lambda mask, class_ids: (mask, [1, 2])
    with pytest.raises(ValueError, match="1 masks but 2 class ids"):
        load_image_gt(dataset, tiny(), 0)


def test_active_classes_are_those_of_the_source():
    dataset = Rectangles([[BOX]])
    dataset.add_class("other", 5, "extra")
    dataset.prepare()
    _, meta, *_ = load_image_gt(dataset, tiny(), 0)
    assert meta[12:].tolist() == [1] * 14 + [0]


# --- matterport's generators ------------------------------------------------------------------


def ids_of(batch):
    """The images' ids from the image meta."""
    return batch[1][:, 0].astype(int).tolist()


def test_generators_pass_over_images_without_objects():
    dataset = Rectangles([[BOX], [], [BOX, BOX], []])
    generator = data_generator(dataset, tiny(), shuffle=False, batch_size=2)
    for _ in range(2):
        inputs, outputs = next(generator)
        assert ids_of(inputs) == [0, 2]
        assert len(inputs) == 7
        assert outputs == []
    assert ids_of(DataGenerator(dataset, tiny(), shuffle=False, batch_size=1)[1][0]) == [2]
    with pytest.raises(ValueError, match="no image of the dataset has an object"):
        next(data_generator(Rectangles([[], []]), tiny()))


def test_data_generator_by_index():
    dataset = Rectangles([[BOX]] * 5)
    generator = DataGenerator(dataset, tiny(IMAGES_PER_GPU=2), shuffle=False)
    assert len(generator) == 3
    assert ids_of(generator[1][0]) == ids_of(generator[1][0]) == [2, 3]
    assert [ids_of(inputs) for inputs, _ in generator] == [[0, 1], [2, 3], [4, 0]]
    with pytest.raises(IndexError):
        generator[3]
    assert len(generator[0][0][0]) == 2


def test_data_generator_shuffles_each_epoch_and_covers_all():
    generator = DataGenerator(Rectangles([[BOX]] * 12), tiny(), batch_size=4)
    orders = []
    for _ in range(2):
        orders.append([i for inputs, _ in generator for i in ids_of(inputs)])
        generator.on_epoch_end()
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(12))
    assert orders[0] != orders[1]


def test_no_augmentation_for_the_sources_given():
    from imgaug import augmenters as iaa

    dataset = Rectangles([[BOX]] * 4, sources=("own", "other"))
    inputs, _ = next(
        data_generator(
            dataset,
            tiny(),
            shuffle=False,
            batch_size=4,
            augmentation=iaa.Fliplr(1.0),
            no_augmentation_sources=["other"],
        )
    )
    assert inputs[5][:, 0, 1].tolist() == [14, 20, 14, 20]


def test_settings_that_do_not_fit_are_refused():
    dataset = Rectangles([[BOX]])
    with pytest.raises(ValueError, match=r"has 14 classes.*NUM_CLASSES is 5"):
        DataGenerator(dataset, tiny(NUM_CLASSES=5))
    with pytest.raises(ValueError, match="set random_rois"):
        DataGenerator(dataset, tiny(), detection_targets=True)
    with pytest.raises(ValueError, match="has no images"):
        BatchLoader(Rectangles([]), tiny(), batch_size=1, shuffle=True)
    wide = Rectangles([[BOX]], shape=(64, 100))
    padded = tiny(IMAGE_RESIZE_MODE="pad64")
    with pytest.raises(RuntimeError, match=r"image0.png.*\(64, 128, 3\).*'square' or 'crop'"):
        DataGenerator(wide, padded)[0]


# --- BatchLoader ------------------------------------------------------------------------------


def loader(dataset, settings=None, **values):
    defaults = {"batch_size": 2, "shuffle": True, "workers": 0}
    return BatchLoader(dataset, settings or tiny(), **(defaults | values))


def test_batches_have_the_promised_shapes():
    dataset = Rectangles([[BOX, (0, 0, 5, 5)], []])
    (batch,) = loader(dataset, shuffle=False).epoch(0)
    anchors = batch[2].shape[1]
    assert [x.shape for x in batch] == [
        *((2, 64, 64, 3), (2, 26), (2, anchors, 1), (2, 256, 4)),
        *((2, 10), (2, 10, 4), (2, 56, 56, 10)),
    ]
    assert [x.dtype for x in batch] == ["f4", "f4", "i4", "f4", "i4", "i4", bool]
    assert batch[4][0].tolist() == [1, 2] + [0] * 8
    assert batch[5][0, :3].tolist() == [list(BOX), [0, 0, 5, 5], [0] * 4]
    molded = 200 - np.array([123.7, 116.8, 103.9])
    np.testing.assert_allclose(batch[0][0, 15, 25], molded, rtol=1e-5)


def test_images_without_objects_are_kept_as_background():
    (batch,) = loader(Rectangles([[]]), batch_size=1).epoch(0)
    assert not any(x.any() for x in batch[3:])
    assert set(np.unique(batch[2])) == {-1, 0}


def test_each_image_is_seen_once_an_epoch():
    batches = loader(Rectangles([[BOX]] * 7))
    assert len(batches) == 4
    orders = [[i for batch in batches.epoch(epoch) for i in ids_of(batch)] for epoch in range(3)]
    for order in orders:
        assert len(order) == 8  # the last batch is filled up
        assert sorted(order[:7]) == list(range(7))
    assert orders[0] != orders[1] != orders[2]
    long = [i for batch in batches.epoch(1, steps=7) for i in ids_of(batch)]
    assert long[:8] == orders[1]
    assert sorted(long[7:]) == list(range(7))
    assert len(list(batches.epoch(0, steps=2))) == 2
    assert list(batches.epoch(0, steps=0)) == []
    in_order = loader(Rectangles([[BOX]] * 3), shuffle=False)
    assert [ids_of(batch) for batch in in_order.epoch(5)] == [[0, 1], [2, 0]]


def test_batches_depend_on_seed_and_epoch_only():
    dataset = Rectangles([[BOX, (5, 5, 60, 60)]] * 5 + [[(i, i, 20, 20) for i in range(14)]])
    settings = tiny(RPN_TRAIN_ANCHORS_PER_IMAGE=16)  # sub-samples anchors; 14 objects of 10 kept
    np.random.seed(0)

    def run(**values):
        values = {"augmentation": varied(), "prefetch": 1} | values
        return list(loader(dataset, settings, **values).epoch(3, steps=4))

    first = run(workers=1)
    before = np.random.get_state()[1].copy()
    for values in ({"workers": 0}, {"workers": 1}, {"workers": 3, "prefetch": 4}):
        for batch, other in zip(first, run(**values), strict=True):
            for array, same in zip(batch, other, strict=True):
                np.testing.assert_array_equal(array, same)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert any((a[0] != b[0]).any() for a, b in zip(first, run(seed=1), strict=True))


def test_an_image_in_the_second_pass_is_augmented_anew():
    batches = loader(Rectangles([[BOX]]), batch_size=6, augmentation=varied())
    (batch,) = batches.epoch(0)
    assert len({array.tobytes() for array in batch[0]}) > 3


class Broken(Rectangles):
    def load_image(self, image_id):
        if image_id == 3:
            raise OSError("truncated file")
        return super().load_image(image_id)


def loader_threads():
    return [t for t in threading.enumerate() if t.name.startswith("batch-loader")]


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_name_the_image_and_end_the_threads(workers):
    batches = loader(Broken([[BOX]] * 8), shuffle=False, workers=workers).epoch(0)
    next(batches)
    with pytest.raises(RuntimeError, match=r"image3\.png.*truncated file") as caught:
        list(batches)
    assert isinstance(caught.value.__cause__, OSError)
    assert not loader_threads()


def test_closing_ends_the_threads_and_looking_ahead_is_bounded():
    loaded = []

    class Counting(Rectangles):
        def load_image(self, image_id):
            loaded.append(image_id)
            return super().load_image(image_id)

    batches = loader(Counting([[BOX]] * 50), workers=2, prefetch=1)
    epoch = batches.epoch(0)
    next(epoch)
    assert loader_threads()
    epoch.close()
    assert not loader_threads()
    assert len(loaded) <= 6
    assert batches.wait_seconds > 0


def test_too_many_objects_are_sampled():
    dataset = Rectangles([[(i, i, i + 10, i + 10) for i in range(12)]])
    (batch,) = loader(dataset, tiny(MAX_GT_INSTANCES=4), batch_size=1).epoch(0)
    class_ids, boxes = batch[4][0], batch[5][0]
    assert len(set(class_ids.tolist())) == 4
    assert (boxes[:, 0] == class_ids - 1).all()
    assert batch[6].any(axis=(1, 2)).all()
