"""Images loaded by outlines: against the way with full-size masks, and against what is drawn.

The images are painted with their masks, so that any of them tells where its objects are.
"""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn.config import Config
from mrcnn.data.dataset import CocoDataset, Dataset
from mrcnn.data.policy import DEFAULT, FLIP, STRONG, ZOOM, Policy
from mrcnn.data.samples import load_image_gt
from mrcnn.data.scenes import load_scene
from tests.helpers.augmenters import varied

WIDTH, HEIGHT = 120, 160
COLOURS = {1: (250, 30, 30), 2: (30, 250, 30), 3: (30, 30, 250)}
GROUND = (90, 90, 90)
CORE = np.ones((9, 9), np.uint8)
STILL = Policy(flip=0, move=0, colour=0, blur=0, occlusion=0)


def wavy(x, y, width, height):
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = 1 + 0.15 * np.sin(3 * angle)
    points = np.stack([x + width * radius * np.cos(angle), y + height * radius * np.sin(angle)], 1)
    return points.round(1).ravel().tolist()


# (category, crowd, polygons) of each image; the last has none.
OBJECTS = [
    [(1, 0, [wavy(40, 40, 25, 30)]), (2, 0, [wavy(80, 110, 30, 35)])],
    [(3, 0, [wavy(30, 60, 15, 40), wavy(85, 60, 20, 40)]), (1, 1, [wavy(60, 135, 40, 15)])],
    [],
]


def write(folder, objects_by_image=OBJECTS, as_rle=False):
    images, annotations = [], []
    for i, objects in enumerate(objects_by_image):
        image = np.full((HEIGHT, WIDTH, 3), GROUND, np.uint8)
        images.append({"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT})
        for category, crowd, polygons in objects:
            rle = coco_mask.merge(coco_mask.frPyObjects(polygons, HEIGHT, WIDTH))
            image[coco_mask.decode(rle).astype(bool)] = COLOURS[category]
            rle["counts"] = rle["counts"].decode()
            entry = {"image_id": i, "category_id": category, "iscrowd": crowd}
            annotations.append(entry | {"segmentation": rle if as_rle else polygons})
        Image.fromarray(image).save(folder / f"{i}.png")
    categories = [{"id": i, "name": f"class {i}"} for i in COLOURS]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


def read(folder, kind=CocoDataset):
    dataset = kind()
    dataset.load_coco(folder / "coco.json", folder, source="painted")
    dataset.prepare()
    return dataset


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    return read(write(tmp_path_factory.mktemp("painted")))


def config(side=256, **values):
    values = {"NUM_CLASSES": 4, "IMAGE_MIN_DIM": side, "IMAGE_MAX_DIM": side} | values
    return type("OwnConfig", (Config,), values)()


def scene(dataset, image_id, augmentation=None, seed=0, **values):
    return load_scene(
        dataset, config(**values), image_id, augmentation, rng=np.random.default_rng(seed)
    )


def iou(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


def painted_as(image, class_id):
    """bool [H, W]: where an image shows the colour of a class, whatever its light."""
    strongest = np.abs(class_id) - 1
    others = np.delete(image.astype(int), strongest, axis=2)
    return image[:, :, strongest] > others.max(axis=2) + 60


MODES = {
    "grown": {"side": 256},
    "shrunk": {"side": 96},
    "as it is": {"side": 160},
    "min_dim": {"side": 256, "IMAGE_MIN_DIM": 64},
    "pad64": {"IMAGE_RESIZE_MODE": "pad64"},
    "none": {"IMAGE_RESIZE_MODE": "none"},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mini", [True, False])
@pytest.mark.parametrize("image_id", [0, 1])
def test_it_agrees_with_the_way_of_full_size_masks(painted, mode, mini, image_id):
    values = MODES[mode] | {"USE_MINI_MASK": mini}
    ours = scene(painted, image_id, **values)
    theirs = load_image_gt(painted, config(**values), image_id, use_mini_mask=mini)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert np.abs(ours[0].astype(int) - theirs[0]).max() <= 2
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_array_equal(ours[2], theirs[2])
    # A pixel of the stored image or of the molded one, whichever is larger.
    assert np.abs(ours[3] - theirs[3]).max() <= max(1, ours[1][11])
    for i in range(len(ours[2])):
        assert iou(ours[4][..., i], theirs[4][..., i]) > 0.94


def test_at_the_images_own_size_it_is_the_same(painted):
    ours, theirs = scene(painted, 0, side=160), load_image_gt(painted, config(160), 0)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[3], theirs[3])


def test_a_crop_is_placed_by_the_generator(painted):
    values = {"side": 128, "IMAGE_RESIZE_MODE": "crop"}
    windows = [scene(painted, 0, seed=seed, USE_MINI_MASK=False, **values) for seed in (0, 0, 1)]
    assert windows[0][0].shape == (128, 128, 3)
    np.testing.assert_array_equal(windows[0][0], windows[1][0])
    assert (windows[0][0] != windows[2][0]).any()
    for image, _, class_ids, _, masks in windows:
        for i, class_id in enumerate(class_ids):
            assert iou(masks[..., i], painted_as(image, class_id)) > 0.95


def test_rle_and_own_masks_give_what_polygons_give(painted, tmp_path):
    rle = read(write(tmp_path, as_rle=True))

    class Own(CocoDataset):
        def load_mask(self, image_id):
            return super().load_mask(image_id)

    own = read(tmp_path, Own)
    assert own.load_outlines(0) is None
    assert scene(own, 0) is None  # that is load_image_gt's
    for policy in (STILL, dataclasses.replace(DEFAULT, move=1)):
        expected = scene(painted, 1, policy)
        for dataset in (rle, own):
            found = scene(dataset, 1, policy)
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[2], expected[2])
            assert np.abs(found[3] - expected[3]).max() <= 1
            for i in range(len(expected[2])):
                assert iou(found[4][..., i], expected[4][..., i]) > 0.9


def test_flipping_is_exact(painted):
    plain, flipped = (scene(painted, 0, dataclasses.replace(STILL, flip=f)) for f in (0, 1))
    np.testing.assert_array_equal(flipped[0], plain[0][:, ::-1])
    y1, x1, y2, x2 = plain[3].T
    # A pixel whose centre lies on an edge may fall to the other side.
    assert np.abs(flipped[3] - np.stack([y1, 256 - x2, y2, 256 - x1], 1)).max() <= 1
    assert iou(flipped[4], plain[4][:, ::-1]) > 0.97


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "policy", [DEFAULT, ZOOM, STRONG, FLIP, dataclasses.replace(DEFAULT, zoom=1)]
)
def test_masks_lie_where_the_image_shows_the_objects(painted, policy, seed):
    policy = dataclasses.replace(policy, tint=0.02, hue=3, brightness=0.1, contrast=0.1)
    image, _, class_ids, boxes, masks = scene(painted, seed % 2, policy, seed, USE_MINI_MASK=False)
    covered = np.abs(image.astype(int) - image.mean(axis=2, keepdims=True)).max(axis=2) > 20
    for i, class_id in enumerate(class_ids):
        mask = masks[..., i]
        y1, x1, y2, x2 = boxes[i]
        assert mask.any(axis=1)[[y1, y2 - 1]].all() and mask.any(axis=0)[[x1, x2 - 1]].all()
        assert mask.sum() == mask[y1:y2, x1:x2].sum()
        shown = painted_as(image, class_id)
        if mask.sum() > 800:
            assert (shown & mask).sum() / mask.sum() > 0.93
    if not policy.occlusion:
        assert not (covered & ~masks.any(axis=2)).mean() > 0.02


def test_objects_that_leave_the_image_are_dropped(painted):
    away = dataclasses.replace(STILL, move=1, scale=(1.0, 1.0), angle=0, shift=3)
    for seed in range(3):
        _, _, class_ids, boxes, masks = scene(painted, 0, away, seed)
        assert (class_ids.shape, boxes.shape, masks.shape) == ((0,), (0, 4), (56, 56, 0))


def test_images_without_objects(painted):
    for augmentation in (None, DEFAULT, varied()):
        image, _, class_ids, boxes, masks = scene(painted, 2, augmentation)
        assert image.shape == (256, 256, 3)
        assert (class_ids.shape, boxes.shape, masks.shape) == ((0,), (0, 4), (56, 56, 0))


def test_surroundings_stay_black_whatever_the_colours_do(painted):
    policy = dataclasses.replace(STILL, colour=1, contrast=0.5, brightness=0, tint=0, hue=0)
    policy = dataclasses.replace(policy, scale=(0.8, 0.9), shift=0)
    for move in (0, 1):
        for seed in range(4):
            image, *_ = scene(painted, 0, dataclasses.replace(policy, move=move), seed)
            assert not image[0, 0].any() and not image[-1, -1].any()


def test_colours_change_every_pixel_alike(painted):
    policy = dataclasses.replace(
        STILL, colour=1, contrast=0, brightness=0.25, tint=0, hue=0, saturation=0
    )
    image, *_ = scene(painted, 2, policy, side=160)
    (value,) = np.unique(image[:, 30:130])
    gain = policy.draw(np.random.default_rng(0), (160, 160)).colours[0, 0]
    assert abs(value - 90 * gain) <= 1 and value != 90
    moved = dataclasses.replace(policy, move=1)
    for seed in range(4):
        image, *_ = scene(painted, 2, moved, seed, side=160)
        gain = moved.draw(np.random.default_rng(seed), (160, 160)).colours[0, 0]
        assert np.abs(image[70:90, 70:90] - 90 * gain).max() <= 1


def test_what_is_in_front_is_no_part_of_the_masks(painted):
    policy = dataclasses.replace(STILL, occlusion=1, hole_side=(0.3, 0.4), min_visible=0)
    for seed in range(6):
        _, _, class_ids, _, masks = scene(painted, 0, policy, seed, USE_MINI_MASK=False)
        *_, whole = scene(painted, 0, STILL, USE_MINI_MASK=False)
        holes = policy.draw(np.random.default_rng(seed), (256, 256)).holes
        for i, class_id in enumerate(class_ids):
            assert not (masks[..., i] & ~whole[..., class_id - 1]).any()
            for (y1, x1, y2, x2), _, is_ellipse in holes:
                part = masks[y1:y2, x1:x2, i]
                middle = part[part.shape[0] // 3 : -(part.shape[0] // 3 + 1)]
                inside = middle[:, part.shape[1] // 3 : -(part.shape[1] // 3 + 1)]
                assert not (inside if is_ellipse else part).any()
    everything = dataclasses.replace(STILL, occlusion=1, hole_side=(1, 1))
    found = [len(scene(painted, 0, everything, seed)[2]) for seed in range(6)]
    assert 0 in found  # a rectangle over all; an ellipse leaves corners


def test_imgaug_moves_image_and_masks_as_on_the_other_way(painted):
    from imgaug import augmenters as iaa

    move = iaa.Sequential([iaa.Fliplr(0.5), iaa.Affine(rotate=(-30, 30), scale=(0.6, 1.4))])
    from mrcnn.data.augmentation import seeded

    for seed in range(4):
        ours = scene(painted, 1, move, seed)
        same = seeded(move, np.random.default_rng(seed))
        theirs = load_image_gt(painted, config(), 1, augmentation=same, use_mini_mask=True)
        assert np.abs(ours[0].astype(int) - theirs[0]).mean() < 0.5
        np.testing.assert_array_equal(ours[2], theirs[2])
        assert np.abs(ours[3] - theirs[3]).max() <= 2  # a pixel, enlarged by up to 1.4
        for i in range(len(ours[2])):
            assert iou(ours[4][..., i], theirs[4][..., i]) > 0.9


class Grey(CocoDataset):
    def load_image(self, image_id):
        return super().load_image(image_id)[:, :, :1]


def test_images_that_are_not_rgb(painted, tmp_path):
    grey = read(write(tmp_path), Grey)
    assert scene(grey, 0) is None  # that is load_image_gt's
    with pytest.raises(ValueError, match=r"uint8 \(160, 120, 1\); policies vary uint8"):
        scene(grey, 0, DEFAULT)


class Wrong(Dataset):
    def load_image(self, image_id):
        return np.zeros((20, 20, 3), np.uint8)

    def load_mask(self, image_id):
        return np.zeros((10, 20, 1), bool), np.ones(1, np.int32)


def test_masks_that_do_not_fit_are_refused():
    dataset = Wrong()
    dataset.add_image("own", 0, "a.png")
    dataset.prepare()
    with pytest.raises(ValueError, match=r"shape \(10, 20, 1\) for the image a.png"):
        scene(dataset, 0, DEFAULT)


def test_objects_are_recoloured_within_their_outlines(painted):
    plain, _, class_ids, _, masks = scene(painted, 0, STILL, USE_MINI_MASK=False)
    changed = []
    for seed in range(8):
        policy = dataclasses.replace(STILL, recolour=0.5)
        image, _, same_ids, _, same_masks = scene(painted, 0, policy, seed, USE_MINI_MASK=False)
        np.testing.assert_array_equal(same_masks, masks)
        np.testing.assert_array_equal(same_ids, class_ids)
        inside = masks.any(axis=2)
        near = cv2.dilate(inside.astype(np.uint8), CORE).astype(bool)
        np.testing.assert_array_equal(image[~near], plain[~near])
        for i in range(2):
            (colour,) = np.unique(
                image[cv2.erode(masks[..., i].astype(np.uint8), CORE) > 0], axis=0
            )
            changed.append(np.abs(colour - plain[masks[..., i]][0].astype(int)).max() > 30)
    assert 3 <= sum(changed) <= 13  # half of sixteen
    empty, *_ = scene(painted, 2, dataclasses.replace(STILL, recolour=1))
    np.testing.assert_array_equal(empty, scene(painted, 2, STILL)[0])


# --- Copy-paste -------------------------------------------------------------------------------


def test_pasted_objects_show_and_hide_what_lies_behind(painted, tmp_path):
    flat = read(write(tmp_path, [[(3, 0, [wavy(60, 80, 40, 50)])]]))
    policy = dataclasses.replace(
        STILL, paste=1, paste_from=flat, paste_shift=0, angle=0, min_visible=0
    )
    policy = dataclasses.replace(policy, paste_scale=(1.0, 1.0))
    image, _, class_ids, boxes, masks = scene(painted, 0, policy, USE_MINI_MASK=False)
    *_, whole = scene(painted, 0, STILL, USE_MINI_MASK=False)
    *_, pasted = scene(flat, 0, STILL, USE_MINI_MASK=False)
    assert class_ids.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(masks[..., 2], pasted[..., 0])
    for i in range(2):
        np.testing.assert_array_equal(masks[..., i], whole[..., i] & ~pasted[..., 0])
        assert boxes[i, 0] == masks[..., i].any(axis=1).argmax()
    for i, class_id in enumerate(class_ids):
        assert iou(masks[..., i], painted_as(image, class_id)) > 0.93


def test_pasting_drops_objects_that_are_hardly_seen(painted, tmp_path):
    flat = read(write(tmp_path, [[(3, 0, [wavy(60, 80, 40, 50)])]]))
    policy = dataclasses.replace(
        STILL,
        paste=1,
        paste_from=flat,
        paste_scale=(1.0, 1.0),
        paste_shift=0,
        angle=0,
        min_visible=0.9,
    )
    assert scene(painted, 0, policy)[2].tolist() == [3]


def test_pasting_from_the_data_itself_and_from_images_without_objects(painted):
    policy = dataclasses.replace(STILL, paste=1)
    found = [scene(painted, 2, policy, seed)[2].tolist() for seed in range(12)]
    assert {len(ids) for ids in found} >= {0, 1}
    assert all(class_id > 0 for ids in found for class_id in ids)  # crowds aren't pasted


def test_images_of_more_weight_are_pasted_from_more_often(painted, tmp_path):
    places = [wavy(60, 80, 40, 50)]
    flat = read(write(tmp_path, [[(1, 0, places)], [(3, 0, places)]]))
    policy = dataclasses.replace(STILL, paste=1, paste_from=flat, paste_shift=0, angle=0)
    policy = dataclasses.replace(policy, paste_scale=(1.0, 1.0), paste_weights=[1, 9])
    found = [scene(painted, 0, policy, seed)[2][-1] for seed in range(60)]
    assert set(found) == {1, 3} and 0.75 < np.mean(np.equal(found, 3)) < 1
    for unfit in ([1], [1, 0], [1, np.nan]):
        with pytest.raises(ValueError, match="paste_weights are of shape"):
            scene(painted, 0, dataclasses.replace(policy, paste_weights=unfit))


def test_pasted_classes_must_be_known(painted, tmp_path):
    other = read(write(tmp_path, [[(3, 0, [wavy(60, 80, 40, 50)])]]))
    other.class_names[3] = "hat"
    with pytest.raises(ValueError, match="class 'hat', which the training data lacks"):
        scene(painted, 0, dataclasses.replace(STILL, paste=1, paste_from=other))
