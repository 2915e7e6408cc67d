"""Drawn arrays against hand-made pixels; figures under the Agg backend."""

import itertools
import subprocess
import sys
import time
import types
import warnings

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab

from tests.helpers import ROOT

matplotlib.use("Agg")
from matplotlib import pyplot

from mrcnn import visualize
from mrcnn.core.classes import DEEPFASHION2
from mrcnn.render import drawing

NAMES = DEEPFASHION2
SHIRT, TROUSERS = 1, 8


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(40, 200, (120, 160, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def quiet_figures():
    """Agg can't show figures and says so; each test starts without any."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*non-interactive.*")
        yield
    pyplot.close("all")


def one_instance(shape=(120, 160), box=(40, 50, 100, 110)):
    """A box with a mask that leaves a margin of 10 pixels in it."""
    y1, x1, y2, x2 = box
    mask = np.zeros((*shape, 1), bool)
    mask[y1 + 10 : y2 - 10, x1 + 10 : x2 - 10] = True
    return np.array([box], np.int32), mask


def no_instances(shape=(120, 160)):
    return np.zeros((0, 4), np.int32), np.zeros((*shape, 0), bool), np.zeros(0, np.int32)


# --- Colours ------------------------------------------------------------------------------


def test_colors_are_pinned():
    # A class must keep its colour from run to run and release to release.
    assert drawing.color_for(1) == (230, 159, 0)
    assert drawing.color_for(8) == (120, 0, 30)
    assert drawing.color_for(13) == (180, 210, 150)
    assert drawing.class_colors(np.array([8, 1, 8], np.int32)) == [
        (120, 0, 30),
        (230, 159, 0),
        (120, 0, 30),
    ]


def test_garment_colors_can_be_told_apart():
    lab = rgb2lab(np.array([drawing.class_colors(range(14))]) / 255)[0]
    for a, b in itertools.combinations(range(14), 2):
        assert deltaE_ciede2000(lab[a], lab[b]) > 9, (a, b)


# What eyes without one kind of cone see of linear RGB (Machado, Oliveira and Fernandes, A
# Physiologically-based Model for Simulation of Color Vision Deficiency, 2009; severity 1).
EYES = {
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("eyes", EYES)
def test_garment_colors_can_be_told_apart_by_the_colour_blind(eyes):
    colors = np.array([drawing.class_colors(range(1, 14))]) / 255  # the background isn't drawn
    linear = np.where(colors > 0.04045, ((colors + 0.055) / 1.055) ** 2.4, colors / 12.92)
    seen = (linear @ np.transpose(EYES[eyes])).clip(0, 1)
    lab = rgb2lab(np.where(seen > 0.0031308, 1.055 * seen ** (1 / 2.4) - 0.055, 12.92 * seen))[0]
    for a, b in itertools.combinations(range(13), 2):
        assert deltaE_ciede2000(lab[a], lab[b]) > 10, (a + 1, b + 1)


def test_colors_of_81_classes_differ():
    colors = drawing.class_colors(range(81))
    assert len(set(colors)) == 81
    assert all(isinstance(v, int) and 0 <= v <= 255 for c in colors for v in c)


def test_negative_class_id_has_no_color():
    with pytest.raises(ValueError, match=r"got class id -1; pass 0 or more"):
        drawing.color_for(-1)


def test_random_colors():
    colors = visualize.random_colors(7)
    assert len(set(colors)) == 7
    assert colors == visualize.random_colors(7)
    assert max(max(c) for c in colors) == 1
    assert max(max(c) for c in visualize.random_colors(7, bright=False)) == pytest.approx(0.7)
    assert visualize.random_colors(0) == []


# --- Labels -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_id", "text"),
    [
        (0, "BG 0.50"),
        (1, "short_sleeved_shirt 0.50"),
        (2, "long_sleeved_shirt 0.50"),
        (3, "short_sleeved_outwear 0.50"),
        (4, "long_sleeved_outwear 0.50"),
        (5, "vest 0.50"),
        (6, "sling 0.50"),
        (7, "shorts 0.50"),
        (8, "trousers 0.50"),
        (9, "skirt 0.50"),
        (10, "short_sleeved_dress 0.50"),
        (11, "long_sleeved_dress 0.50"),
        (12, "vest_dress 0.50"),
        (13, "sling_dress 0.50"),
    ],
)
def test_label_of_each_class(class_id, text):
    assert drawing.label_text(class_id, NAMES, 0.5) == text


def test_label_without_score():
    assert drawing.label_text(np.int32(TROUSERS), list(NAMES)) == "trousers"


@pytest.mark.parametrize("class_id", [14, -1])
def test_class_id_without_name(class_id, image):
    message = rf"class id {class_id} has no name: got 14 class names.*pass the names"
    with pytest.raises(ValueError, match=message):
        drawing.label_text(class_id, NAMES)
    boxes, masks = one_instance()
    with pytest.raises(ValueError, match=message):
        drawing.draw_instances(image, boxes, masks, [class_id], NAMES)


def test_names_without_background_are_refused(image):
    boxes, masks = one_instance()
    with pytest.raises(ValueError, match="put 'BG' first"):
        drawing.draw_instances(image, boxes, masks, [SHIRT], NAMES[1:])


def test_drawn_label_is_that_of_the_class(monkeypatch, image):
    drawn = []
    monkeypatch.setattr(drawing, "_paste_labels", lambda canvas, labels: drawn.extend(labels))
    boxes, masks = one_instance()
    for class_id in range(1, 14):
        drawing.draw_instances(image, boxes, masks, [class_id], NAMES, [0.987])
    assert [text for _, text, _ in drawn] == [f"{name} 0.99" for name in NAMES[1:]]
    assert [color for *_, color in drawn] == drawing.class_colors(range(1, 14))


@settings(max_examples=60, deadline=None)
@given(
    canvas=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    box=st.tuples(*[st.integers(-20, 120)] * 4),
)
def test_labels_stay_inside(canvas, box):
    tile = (min(40, canvas[0]), min(12, canvas[1]))
    for x1, y1, x2, y2 in drawing._label_spots(box, tile, canvas):
        assert (x2 - x1, y2 - y1) == tile
        assert x1 >= 0 and y1 >= 0 and x2 <= canvas[0] and y2 <= canvas[1]


@pytest.mark.parametrize(
    "box", [(0, 0, 5, 5), (0, 155, 5, 160), (115, 0, 120, 5), (115, 155, 120, 160)]
)
def test_label_of_a_corner_box_is_fully_drawn(box):
    black = np.zeros((120, 160, 3), np.uint8)
    tile = np.array(drawing._label_tile("vest", drawing.ImageFont.load_default(10), (255, 0, 255)))
    canvas = drawing.Image.fromarray(black)
    drawing._paste_labels(canvas, [(box, "vest", (255, 0, 255))])
    drawn = np.array(canvas)
    ys, xs = np.nonzero(drawn.any(axis=2))
    height, width = ys.max() - ys.min() + 1, xs.max() - xs.min() + 1
    assert (height, width) == tile.shape[:2]
    assert (drawn[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] == tile).all()


def test_labels_of_the_same_box_do_not_hide_each_other():
    canvas = drawing.Image.new("RGB", (300, 200))
    box = (80, 60, 180, 260)
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    drawing._paste_labels(canvas, [(box, "skirt 0.90", c) for c in colors])
    counts = [(np.array(canvas) == c).all(axis=2).sum() for c in colors]
    assert min(counts) > 0.9 * max(counts)


# --- draw_instances -----------------------------------------------------------------------


def test_pixels(image):
    boxes, masks = one_instance()
    before = image.copy()
    drawn = drawing.draw_instances(image, boxes, masks, [TROUSERS], NAMES)
    assert (image == before).all()
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    color = np.array(drawing.color_for(TROUSERS))
    # Fill: 35 % colour; outline of mask and box: the colour itself.
    inside = drawn[60:80, 70:90].astype(float)
    expected = 0.65 * image[60:80, 70:90] + 0.35 * color
    assert np.abs(inside - expected).max() <= 1
    assert (drawn[50, 60:100] == color).all() and (drawn[89, 60:100] == color).all()
    assert (drawn[50:90, 60] == color).all() and (drawn[50:90, 99] == color).all()
    assert (drawn[40, 50:110] == color).all() and (drawn[99, 50:110] == color).all()
    # Between box and mask, and outside the box (label apart, above it), nothing changes.
    assert (drawn[92:98, 52:108] == image[92:98, 52:108]).all()
    assert (drawn[100:] == image[100:]).all() and (drawn[40:, :50] == image[40:, :50]).all()
    assert (drawn[40:, 110:] == image[40:, 110:]).all()
    assert (drawn[20:40] != image[20:40]).any()


def test_mask_outside_its_box_is_not_drawn(image):
    boxes = np.array([[40, 50, 100, 110]])
    drawn = drawing.draw_instances(image, boxes, np.ones((120, 160, 1), bool), [1], NAMES)
    assert (drawn[100:] == image[100:]).all() and (drawn[:, :50] == image[:, :50]).all()


def test_small_instances_lie_above_large_ones(image):
    boxes = np.array([[60, 60, 80, 80], [20, 20, 119, 159]])
    masks = np.ones((120, 160, 2), bool)
    drawn = drawing.draw_instances(image, boxes, masks, [SHIRT, TROUSERS], NAMES)
    other = drawing.draw_instances(image, boxes[::-1], masks, [TROUSERS, SHIRT], NAMES)
    assert (drawn == other).all()
    # Drawn below the trousers, the shirt's outline would be tinted.
    assert (drawn[79, 60:80] == drawing.color_for(SHIRT)).all()


def test_zero_instances_return_an_equal_image(image):
    boxes, masks, class_ids = no_instances()
    drawn = drawing.draw_instances(image, boxes, masks, class_ids, NAMES, np.zeros(0))
    assert (drawn == image).all() and drawn is not image
    assert (drawing.draw_instances(image, [], None, [], NAMES) == image).all()


@pytest.mark.parametrize(
    "box", [(-10, -10, 500, 500), (30.4, 40.2, 60.9, 70.1), (0, 0, 1, 1), (50, 50, 50, 80)]
)
def test_boxes_of_any_size(image, box):
    masks = np.ones((120, 160, 1), bool)
    drawn = drawing.draw_instances(image, np.array([box]), masks, [1], NAMES)
    assert drawn.shape == image.shape
    # Empty boxes are padding and leave no trace.
    assert (drawn == image).all() == (box == (50, 50, 50, 80))


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 300, 3), (300, 8, 3)])
def test_tiny_images(shape):
    image = np.zeros(shape, np.uint8)
    box = np.array([[0, 0, *shape[:2]]])
    drawn = drawing.draw_instances(image, box, np.ones((*shape[:2], 1), bool), [4], NAMES, [1.0])
    assert drawn.shape == shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((9, 9, 3))}, r"got an image of float64 \(9, 9, 3\); pass"),
        ({"image": np.zeros((9, 9), np.uint8)}, r"got an image of uint8 \(9, 9\); pass"),
        ({"boxes": np.zeros((1, 5))}, r"got boxes of shape \(1, 5\); pass"),
        ({"boxes": np.full((1, 4), np.nan)}, "pass finite"),
        ({"masks": np.zeros((120, 160, 2), bool)}, r"got masks of shape .* for 1 boxes"),
        ({"masks": np.zeros((1, 120, 160), bool)}, r"pass \[H, W, N\]"),
        ({"class_ids": [1, 2]}, "got 2 class_ids for 1 boxes"),
        ({"scores": []}, "got 0 scores for 1 boxes"),
    ],
)
def test_bad_arguments(image, changes, message):
    boxes, masks = one_instance()
    arguments = {"image": image, "boxes": boxes, "masks": masks, "class_ids": [1]}
    with pytest.raises(ValueError, match=message):
        drawing.draw_instances(**{**arguments, "class_names": NAMES, **changes})


def test_speed():
    image = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3)).astype(np.uint8)
    boxes = np.array([[50 * i, 40 * i, 500 + 50 * i, 600 + 40 * i] for i in range(10)])
    masks = np.zeros((10, 1024, 1024), bool)
    for mask, (y1, x1, y2, x2) in zip(masks, boxes, strict=True):
        mask[y1 + 9 : y2 - 9, x1 + 9 : x2 - 9] = True
    ids, scores = np.arange(1, 11), np.full(10, 0.9)
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        drawing.draw_instances(image, boxes, masks.transpose(1, 2, 0), ids, NAMES, scores)
        durations.append(time.perf_counter() - start)
    # 150 ms is the target; the rest is room for a busy machine.
    assert min(durations) < 0.5


def test_draw_box_and_apply_mask():
    image = np.zeros((20, 20, 3), np.uint8)
    assert visualize.draw_box(image, (2, 3, 12, 15), (9, 8, 7)) is image
    assert (image[2:4, 3:15] == (9, 8, 7)).all() and (image[10:12, 3:15] == (9, 8, 7)).all()
    assert (image[2:12, 3:5] == (9, 8, 7)).all() and (image[2:12, 13:15] == (9, 8, 7)).all()
    assert not image[4:10, 5:13].any() and image.any(axis=2).sum() == 10 * 12 - 6 * 8
    visualize.draw_box(image, (0, 0, 3, 30), (1, 1, 1))
    assert (image[:3] == 1).all()

    image = np.full((4, 4, 3), 100, np.uint8)
    mask = np.zeros((4, 4))
    mask[1, 2] = 1
    assert visualize.apply_mask(image, mask, (1, 0, 0.5)) is image
    assert image[1, 2].tolist() == [177, 50, 113]
    assert (image.sum(axis=2) == 300).sum() == 15


# --- Figures ------------------------------------------------------------------------------


def texts(ax=None):
    return [t.get_text() for t in (ax or pyplot.gca()).texts]


def instances():
    boxes = np.array([[10, 10, 60, 60], [30, 80, 110, 150]])
    masks = np.zeros((120, 160, 2), bool)
    masks[10:60, 10:60, 0] = masks[30:110, 80:150, 1] = True
    return boxes, masks, np.array([SHIRT, TROUSERS])


def test_display_instances(image):
    boxes, masks, ids = instances()
    visualize.display_instances(image, boxes, masks, ids, NAMES, np.array([0.9, 0.75]), "Two")
    ax = pyplot.gca()
    assert texts() == ["short_sleeved_shirt 0.90", "trousers 0.75"]
    assert ax.get_title() == "Two"
    assert len(ax.patches) == 2
    shown = np.asarray(ax.images[0].get_array())
    assert (shown[:, 70] == image[:, 70]).all() and (shown[40, 100] != image[40, 100]).any()


def test_display_instances_on_given_axes(image):
    boxes, masks, ids = instances()
    _, ax = pyplot.subplots()
    options = {"show_mask": False, "show_bbox": False, "captions": ["a", "b"], "ax": ax}
    visualize.display_instances(image, boxes, masks, ids, NAMES, **options)
    assert len(pyplot.get_fignums()) == 1
    assert texts(ax) == ["a", "b"] and not ax.patches
    assert (np.asarray(ax.images[0].get_array()) == image).all()


def test_display_instances_colors_and_padding(image):
    boxes, masks, ids = instances()
    boxes[0] = 0
    colors = [(1, 0, 0), (0, 0, 1)]
    visualize.display_instances(image, boxes, masks, ids, NAMES, colors=colors)
    assert [p.get_edgecolor() for p in pyplot.gca().patches] == [(0, 0, 1, 1)]
    assert texts() == ["trousers"]


def test_display_zero_instances(image):
    visualize.display_instances(image.astype(np.float32), *no_instances(), NAMES)
    assert texts() == []
    assert (np.asarray(pyplot.gca().images[0].get_array()) == image).all()


def test_display_differences(image):
    boxes, masks, ids = instances()
    order = [1, 0]  # predictions, worst first; the shirt's box is half as wide
    scores = np.array([0.6, 0.95])
    pred_masks = masks[..., order].copy()
    pred_masks[:, 35:60, 1] = False
    arguments = (boxes, ids, masks, boxes[order], ids[order], scores, pred_masks, NAMES)
    visualize.display_differences(image, *arguments, iou_threshold=0.75)
    assert texts() == ["", "", "0.95 / 0.50", "0.60 / 1.00"]
    assert "green" in pyplot.gca().get_title()


def test_display_differences_of_equal_scores_and_padding(image):
    boxes, masks, ids = instances()
    nothing = np.zeros((120, 160, 1), bool)
    pred_boxes = np.concatenate([boxes, np.zeros((1, 4), int)])
    pred_masks = np.concatenate([masks, nothing], axis=2)
    pred_masks[:, :35, 0] = False
    found = (pred_boxes, np.append(ids, 0), np.array([0.9, 0.9, 0]), pred_masks)
    visualize.display_differences(image, boxes, ids, masks, *found, NAMES)
    assert texts() == ["", "", "0.90 / 0.50", "0.90 / 1.00"]


def test_display_differences_without_objects_or_predictions(image):
    boxes, masks, ids = instances()
    no_boxes, no_masks, no_ids = no_instances()
    found = (boxes, ids, np.array([0.9, 0.8]), masks)
    visualize.display_differences(image, no_boxes, no_ids, no_masks, *found, NAMES)
    assert texts() == ["0.90 / 0.00", "0.80 / 0.00"]
    missed = (no_boxes, no_ids, np.zeros(0), no_masks)
    visualize.display_differences(image, boxes, ids, masks, *missed, NAMES, title="Missed")
    assert texts() == ["", ""] and pyplot.gca().get_title() == "Missed"


def test_draw_rois(image):
    rois = np.array([[10, 10, 60, 60], [30, 80, 110, 150], [0, 0, 20, 20]])
    ids = np.array([SHIRT, 0, TROUSERS])
    visualize.draw_rois(image, rois, rois + 2, np.ones((3, 28, 28)), ids, NAMES)
    ax = pyplot.gca()
    assert ax.get_title() == "3 RoIs, 2 of them positive"
    assert texts() == ["short_sleeved_shirt", "", "trousers"]
    assert len(ax.patches) == 6
    visualize.draw_rois(image, rois, rois, np.ones((3, 28, 28)), ids, NAMES, limit=2)
    assert texts() == ["short_sleeved_shirt", "trousers"]
    nothing = (np.zeros((0, 4)), np.zeros((0, 4)), np.zeros((0, 28, 28)), np.zeros(0, int))
    visualize.draw_rois(image, *nothing, NAMES)
    assert pyplot.gca().get_title() == "0 RoIs, 0 of them positive"


def test_draw_boxes(image):
    boxes, masks, _ = instances()
    visibilities = [0, 2]
    visualize.draw_boxes(image, boxes, boxes + 3, masks, ["x", "y"], visibilities, "Boxes")
    ax = pyplot.gca()
    assert texts() == ["x", "y"] and ax.get_title() == "Boxes"
    assert [p.get_linestyle() for p in ax.patches[::2]] == ["dashed", "solid"]
    assert ax.patches[0].get_edgecolor()[:3] == (0.5, 0.5, 0.5)
    assert len(ax.lines) == 2
    visualize.draw_boxes(image, refined_boxes=boxes)
    assert len(pyplot.gca().patches) == 2
    with pytest.raises(ValueError, match="pass one of them"):
        visualize.draw_boxes(image)


def test_display_images(image):
    visualize.display_images([image, image[..., 0]] * 3, titles=list("abcdef"), cols=4)
    assert [ax.get_title() for ax in pyplot.gcf().axes] == list("abcdef")
    visualize.display_images([image])
    assert len(pyplot.gcf().axes) == 1


def test_display_top_masks(image):
    _, masks, ids = instances()
    visualize.display_top_masks(image, masks, ids, NAMES)
    titles = [ax.get_title() for ax in pyplot.gcf().axes]
    assert titles == ["120 x 160", "trousers", "short_sleeved_shirt"]
    visualize.display_top_masks(image, masks, ids, NAMES, limit=1)
    assert [ax.get_title() for ax in pyplot.gcf().axes] == ["120 x 160", "trousers"]
    _, no_masks, no_ids = no_instances()
    visualize.display_top_masks(image, no_masks, no_ids, NAMES)
    assert [ax.get_title() for ax in pyplot.gcf().axes] == ["120 x 160"]


def test_plot_precision_recall():
    visualize.plot_precision_recall(0.6251, [1, 1, 0.5, 0], [0, 0.5, 1, 1])
    assert "AP@50 = 0.625" in pyplot.gca().get_title()


def test_plot_overlaps():
    overlaps = np.array([[0.8, 0.1], [0.7, 0.0]])
    arguments = ([SHIRT, TROUSERS], [SHIRT, TROUSERS], [0.9, 0.75], overlaps, NAMES)
    visualize.plot_overlaps(*arguments)
    assert texts() == ["0.800\nmatch", "0.100\n", "0.700\nwrong", "0.000\n"]
    labels = [t.get_text() for t in pyplot.gca().get_yticklabels()]
    assert labels == ["short_sleeved_shirt 0.90", "trousers 0.75"]
    visualize.plot_overlaps([], [], [], np.zeros((0, 0)), NAMES)


def test_display_table_without_notebook(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    visualize.display_table([["a", 1], ["<b>", 2]])
    assert capsys.readouterr().out == "a  1\n<b>  2\n"


def test_display_table_in_a_notebook(monkeypatch):
    shown = []
    fake = types.SimpleNamespace(HTML=str, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    visualize.display_table([["a", "<b>"]])
    assert shown == ["<table><tr><td>a</td><td>&lt;b&gt;</td></tr></table>"]


def test_display_weight_stats(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython.display", None)

    class Weight(np.ndarray):
        path = ""

    kernel, bias, dead = (
        np.eye(2).view(Weight),
        np.zeros(2).view(Weight),
        np.ones((3, 3)).view(Weight),
    )
    kernel.path, bias.path, dead.path = "conv1/kernel", "conv1/bias", "conv2/kernel"
    model = types.SimpleNamespace(weights=[kernel, bias, dead])
    visualize.display_weight_stats(types.SimpleNamespace(keras_model=model))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "WEIGHT NAME  SHAPE  MIN  MAX  STD"
    assert lines[1] == "conv1/kernel  (2, 2)     +0.0000     +1.0000     +0.5000"
    assert [" *** dead?" in line for line in lines] == [False, False, False, True]
    visualize.display_weight_stats(model)
    assert "conv1/bias" in capsys.readouterr().out


def test_import_needs_neither_tensorflow_nor_pyplot():
    code = (
        "import sys, mrcnn.visualize;"
        "print([m for m in ('tensorflow', 'matplotlib.pyplot') if m in sys.modules])"
    )
    root = ROOT
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr
