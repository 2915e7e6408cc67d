"""Mask AP and sample images of a model in training, from a detector that follows its weights."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.coco_files import read_data
from tests.helpers.shapes import SmallConfig

pytestmark = pytest.mark.tf

BOX = (10, 5, 70, 45)  # of the only shirt in each image, y1, x1, y2, x2


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """A data set of two noisy images with a shirt each, from its COCO file."""
    folder = tmp_path_factory.mktemp("data")
    y1, x1, y2, x2 = BOX
    images, annotations = [], []
    for i in (7, 8):
        pixels = np.random.default_rng(i).integers(0, 256, (80, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 60, "height": 80})
        polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
        shirt = {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "segmentation": [polygon]}
        area = (x2 - x1) * (y2 - y1)
        annotations.append(shirt | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area})
    categories = [{"id": 1, "name": "shirt"}, {"id": 2, "name": "skirt"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))
    return read_data(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from mrcnn.model import MaskRCNN

    model = MaskRCNN("training", SmallConfig(), str(tmp_path_factory.mktemp("logs")))
    model.class_names = ("BG", "shirt", "skirt")
    return model


def test_mask_ap_by_hand(model, annotated, monkeypatch):
    from mrcnn.commands.validation import ValidationDetector
    from mrcnn.inference.results import Result

    def find(count):
        """A predictor that finds the shirt exactly, in so many images."""
        left = [[BOX]] * count + [[]] * (2 - count)

        def predictor(images):
            boxes = np.array(left.pop(0)).reshape(-1, 4)
            n = len(boxes)
            masks = np.ones((n, 28, 28), np.float32)
            return [Result(images[0], boxes, [1] * n, [0.9] * n, masks, model.class_names)]

        return lambda min_score: predictor

    detector = ValidationDetector(model, annotated)
    # 101 recalls of 0, 0.01, ..., 1: one of two shirts is a recall of 0.5.
    for count, expected in ((2, 1.0), (1, 51 / 101), (0, 0.0)):
        monkeypatch.setattr(detector, "_predictor", find(count))
        assert detector.mask_ap() == pytest.approx(expected)


def test_it_follows_the_weights(model, annotated):
    from mrcnn.commands.validation import ValidationDetector

    dataset = annotated
    detector = ValidationDetector(model, dataset, count=1, seed=2)
    head = model.keras_model.get_layer("mrcnn_class_logits")
    head.kernel.assign(np.zeros(head.kernel.shape))
    head.bias.assign([0, 8, 0])  # all are shirts
    ((name, drawn),) = detector.draw_samples(4)
    image_id = int(name.removeprefix("image "))
    image = dataset.load_image([7, 8].index(image_id))
    assert drawn.shape == image.shape and (drawn != image).any()
    head.bias.assign([50, 0, 0])  # all is background
    np.testing.assert_array_equal(detector.draw_samples(4)[0][1], image)
    assert detector.mask_ap() == 0.0
