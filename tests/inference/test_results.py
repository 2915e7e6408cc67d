"""Results: masks from probabilities, run lengths, exclusive masks, one class a garment."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from mrcnn.core.image import stretch_mask, unmold_mask
from mrcnn.inference.results import Result, encode_crop, without_overlaps

NAMES = ("BG", "top", "trousers")


def make(boxes, ids, scores, masks=None, size=(40, 60), **options):
    masks = np.ones((len(boxes), 28, 28)) if masks is None else masks
    return Result(
        np.zeros((*size, 3), np.uint8),
        np.array(boxes, np.int32),
        np.array(ids, np.int32),
        np.array(scores, np.float32),
        np.asarray(masks, np.float32),
        NAMES,
        **options,
    )


def test_a_result_by_hand():
    result = make([[0, 0, 10, 20], [5, 10, 40, 60]], [2, 1], [0.9, 0.5])
    assert len(result) == 2 and result.size == (40, 60)
    assert result.names == ["trousers", "top"]
    assert result.areas.tolist() == [200, 35 * 50]
    assert result.masks.shape == (40, 60, 2) and result.masks[..., 0].sum() == 200
    assert result.masks[9, 19, 0] and not result.masks[10, 19, 0]
    first, second = result.to_coco(7)
    assert first["image_id"] == 7 and first["category_id"] == 2
    assert second["bbox"] == [10, 5, 50, 35] and second["score"] == 0.5
    assert (mask_utils.decode(second["segmentation"]) == result.masks[..., 1]).all()


def test_which_masks_have_pixels():
    boxes, masks = [[0, 0, 10, 20], [0, 0, 40, 40], [2, 2, 6, 6]], np.ones((3, 28, 28))
    masks[1], masks[1, 0, 0] = 0.49, 0.5
    for refined in (False, True):
        result = make(boxes, [1] * 3, [0.9, 0.8, 0.7], masks, refined=refined)
        assert result.have_pixels.tolist() == [True, True, True] == (result.areas > 0).tolist()
        result = make(boxes, [1] * 3, [0.9, 0.8, 0.7], masks, refined=refined, exclusive=True)
        assert result.have_pixels.tolist() == [True, False, False] == (result.areas > 0).tolist()
        result = make(boxes, [1] * 3, [0.9, 0.8, 0.7], masks * 0.9, refined=refined)
        assert result.have_pixels.tolist() == [True, False, True] == (result.areas > 0).tolist()
    planes = np.zeros((40, 60, 2), bool)
    planes[3, 3, 1] = True
    detected = {"rois": boxes[:2], "class_ids": [1, 2], "scores": [0.9, 0.8], "masks": planes}
    result = Result.from_detect(detected, np.zeros((40, 60, 3), np.uint8), NAMES)
    assert result.have_pixels.tolist() == [False, True]


def test_no_garments():
    result = make(np.zeros((0, 4)), [], [], np.zeros((0, 28, 28)))
    assert len(result) == 0 and result.to_coco() == [] and result.names == []
    assert result.masks.shape == (40, 60, 0) and result.areas.tolist() == []
    assert len(without_overlaps(result)) == 0 and len(result.select([])) == 0
    assert len(result.select(result.have_pixels)) == 0


@pytest.mark.parametrize(
    ("boxes", "ids", "message"),
    [
        ([[0, 0, 41, 10]], [1], "boxes within the image"),
        ([[0, 0, 4, 10]], [1, 2], "as many of each"),
        ([[0, 0, 4, 10]], [3], "class id 3 has no name"),
        ([[0, 0, 4, 10]], [0], "class id 0 has no name"),
    ],
)
def test_what_does_not_fit_is_refused(boxes, ids, message):
    with pytest.raises(ValueError, match=message):
        make(boxes, ids, [0.5] * len(ids))


@pytest.mark.parametrize("side", [28, 150, 400])
def test_a_disc_comes_out_round(side):
    """Probabilities of a disc, each cell's mean, against the disc itself at full size."""
    fine = (np.arange(28 * 20) + 0.5) / 20
    inside = np.hypot(fine[:, None] - 14, fine - 14) <= 10
    cells = inside.reshape(28, 20, 28, 20).mean(axis=(1, 3))
    centres = (np.arange(side) + 0.5) * 28 / side
    disc = np.hypot(centres[:, None] - 14, centres - 14) <= 10
    pasted = stretch_mask(cells, side, side) >= 0.5
    # No pixel further from the true edge than a tenth of a cell; blocks would be off by half.
    off = np.abs(np.hypot(centres[:, None] - 14, centres - 14) - 10)[pasted != disc]
    assert off.max(initial=0) < 0.1
    assert (pasted == pasted[::-1]).all() and (pasted == pasted.T).all()  # no half-pixel shift


def test_a_garment_that_fills_its_box_keeps_its_rim():
    mask = np.full((28, 28), 0.6)
    mask[14, 14] = 0
    box = (3, 4, 33, 54)
    assert make([box], [1], [0.9], mask[None]).crop(0)[:, 0].all()
    assert not unmold_mask(mask, box, (40, 60))[:, 4].any()  # the original's fades out there


def test_stretching_one_pixel_takes_the_middle():
    ramp = np.tile(np.linspace(0, 1, 28), (28, 1))
    assert stretch_mask(ramp, 1, 1) == pytest.approx(0.5)


@given(st.data())
def test_run_lengths_equal_pycocotools(data):
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    y1, x1 = data.draw(st.integers(0, height)), data.draw(st.integers(0, width))
    y2, x2 = data.draw(st.integers(y1, height)), data.draw(st.integers(x1, width))
    bits = data.draw(st.lists(st.booleans(), min_size=144, max_size=144))
    crop = np.resize(bits, (y2 - y1, x2 - x1))
    whole = np.zeros((height, width), np.uint8, order="F")
    whole[y1:y2, x1:x2] = crop
    ours = encode_crop(crop, (y1, x1, y2, x2), (height, width))
    assert ours["counts"] == mask_utils.encode(whole)["counts"].decode()
    assert (mask_utils.decode(ours) == whole).all()


def test_exclusive_masks_go_to_the_better_score():
    boxes = [[0, 0, 20, 20], [10, 10, 30, 30], [0, 0, 40, 60]]
    plain = make(boxes, [1, 2, 1], [0.6, 0.9, 0.3])
    result = make(boxes, [1, 2, 1], [0.6, 0.9, 0.3], exclusive=True)
    assert (plain.masks.sum(axis=2) <= 1).mean() < 1
    assert (result.masks.sum(axis=2) == 1).all()
    assert result.areas.tolist() == [300, 400, 40 * 60 - 700]
    # Taking the best away gives its pixels back.
    assert result.select([0, 2]).areas.tolist() == [400, 2000]


def test_large_results_keep_no_masks(monkeypatch):
    monkeypatch.setattr("mrcnn.inference.results.KEPT_PIXELS", 100)
    result = make([[0, 0, 10, 20]], [1], [0.9])
    assert result.crop(0).all() and not result._crops


def test_one_class_for_each_garment():
    boxes = [[0, 0, 20, 20], [1, 0, 20, 20], [0, 0, 9, 20], [25, 30, 40, 60]]
    result = without_overlaps(make(boxes, [1, 2, 1, 2], [0.6, 0.9, 0.8, 0.3]))
    # The first is the second again, with less certainty; the third covers less than half of it.
    assert result.boxes.tolist() == [boxes[1], boxes[2], boxes[3]]
    assert result.scores.tolist() == pytest.approx([0.9, 0.8, 0.3])


def test_the_dict_of_detect():
    mask = np.zeros((40, 60, 1), bool)
    mask[5:25, 10:30] = True
    mask[5, 10] = False
    detected = {
        "rois": np.array([[5, 10, 25, 30]], np.int32),
        "class_ids": np.array([2], np.int32),
        "scores": np.array([0.75], np.float32),
        "masks": mask,
    }
    image = np.zeros((40, 60, 3), np.uint8)
    result = Result.from_detect(detected, image, NAMES)
    assert result.names == ["trousers"] and (result.masks == mask).all()
    (row,) = result.to_coco(np.int64(3))
    segmentation = row.pop("segmentation")
    assert row == {"image_id": 3, "category_id": 2, "bbox": [10, 5, 20, 20], "score": 0.75}
    assert segmentation["size"] == [40, 60] and isinstance(segmentation["counts"], str)
    assert (mask_utils.decode(segmentation) == mask[..., 0]).all()
    (mapped,) = result.to_coco(3, category_ids=[0, 101, 102])
    assert mapped["category_id"] == 102
    nothing = {**detected, "rois": np.zeros((0, 4)), "masks": mask[..., :0]}
    nothing |= {"class_ids": np.zeros(0), "scores": np.zeros(0)}
    assert Result.from_detect(nothing, image, NAMES).to_coco() == []


def test_coco_rows_there_and_back():
    image = np.zeros((40, 60, 3), np.uint8)
    first = make([[0, 0, 20, 20], [10, 10, 40, 30]], [2, 1], [0.75, 0.5], exclusive=True)
    rows = first.to_coco(7)
    result = Result.from_coco(rows[::-1], image, NAMES)  # any order; best score first
    assert (result.masks == first.masks).all() and result.to_coco(7) == rows
    assert result.select([1]).to_coco(7) == rows[1:]
    assert len(Result.from_coco([], image, NAMES)) == 0


def test_coco_rows_of_others():
    """Boxes between pixels, masks that reach beyond theirs, polygons, empty masks."""
    whole = np.zeros((40, 60), np.uint8, order="F")
    whole[10:20, 10:20] = 1
    rle, empty = mask_utils.encode(whole), mask_utils.encode(0 * whole)
    polygon = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]
    rows = [
        {"category_id": 1, "score": 0.9, "bbox": [12.5, 10.2, 4.2, 30], "segmentation": rle},
        {"category_id": 1, "score": 0.8, "bbox": [10, 10, 10, 10], "segmentation": polygon},
        {"category_id": 2, "score": 0.7, "bbox": [55.5, 1, 9, 9], "segmentation": empty},
    ]
    result = Result.from_coco(rows, np.zeros((40, 60, 3), np.uint8), NAMES)
    assert result.boxes.tolist() == [[10, 10, 40, 20], [10, 10, 20, 20], [1, 55, 10, 60]]
    assert result.areas.tolist() == [100, 100, 0]
    assert (result.masks[..., 0] == whole).all() and (result.masks[..., 1] == whole).all()


def test_each_mask_is_encoded_once(monkeypatch):
    """By class-agnostic NMS, the record and the results of a run."""
    from mrcnn.inference import results

    calls = []

    def counted(crop, box, size):
        calls.append(1)
        return encode_crop(crop, box, size)

    monkeypatch.setattr(results, "encode_crop", counted)
    boxes = [[0, 0, 20, 20], [1, 0, 20, 20], [25, 30, 40, 60]]
    kept = without_overlaps(make(boxes, [1, 2, 2], [0.6, 0.9, 0.3]))
    assert len(kept) == 2
    assert kept.to_coco() == kept.to_coco() and len(calls) == 3


def test_images_may_have_names_for_ids():
    image = np.zeros((8, 8, 3), np.uint8)
    result = Result(image, [[0, 0, 4, 4]], [1], [0.5], np.ones((1, 28, 28)), ["BG", "a"])
    assert result.to_coco("left_07", [None, 0])[0]["image_id"] == "left_07"
    assert result.to_coco("left_07", [None, 0])[0]["category_id"] == 0
