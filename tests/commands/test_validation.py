"""What a model in training finds, by a detector that follows its weights."""

import json

import numpy as np
import pytest
from PIL import Image

from mrcnn.core.classes import DEEPFASHION2

pytestmark = pytest.mark.tf


@pytest.fixture
def annotated(tmp_path, small_weights, golden_images):
    """An image, and its COCO file: trousers wherever the small model sees some."""
    from mrcnn.predictor import Predictor

    picture = np.ascontiguousarray(golden_images["grace_hopper"])
    height, width = picture.shape[:2]
    (tmp_path / "image").mkdir()
    Image.fromarray(picture).save(tmp_path / "image" / "7.png")
    settings = {"min_score": 0.05, "batch_size": 1, "precision": "float32"}
    (seen,) = Predictor.load(small_weights, classes=["trousers"], **settings)([picture])
    annotations = []
    for i, (y1, x1, y2, x2) in enumerate(seen.boxes.tolist(), start=1):
        trousers = {"id": i, "image_id": 7, "category_id": 8, "iscrowd": 0}
        trousers |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        trousers["segmentation"] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        annotations.append(trousers)
    assert annotations
    content = {
        "images": [{"id": 7, "file_name": "7.png", "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(DEEPFASHION2) if i],
    }
    path = tmp_path / "validation_coco.json"
    path.write_text(json.dumps(content))
    return path, picture


def test_it_follows_the_weights(small_weights, annotated, tmp_path):
    from mrcnn.commands.judge import Judge

    from mrcnn.data.dataset import CocoDataset
    from mrcnn.model import MaskRCNN
    from mrcnn.presets import CompactConfig

    path, picture = annotated
    dataset = CocoDataset()
    dataset.load_coco(str(path), str(tmp_path / "image"))
    dataset.prepare()
    values = {"IMAGE_MIN_DIM": 128, "IMAGE_MAX_DIM": 128, "COMPUTE_DTYPE": "float32"}
    model = MaskRCNN("training", CompactConfig.from_dict(values), str(tmp_path / "logs"))
    model.load_weights(small_weights)
    judge = Judge(model, dataset, path)
    bias = model.keras_model.get_layer("mrcnn_class_logits").bias
    found = bias.numpy() + np.where(np.arange(14) == 8, 8, 0).astype(np.float32)  # trousers
    bias.assign(found)

    ((name, drawn),) = judge.samples(1)
    assert name == "image 7" and drawn.shape == picture.shape and (drawn != picture).any()
    before = judge.mask_ap()
    assert 0 < before <= 1

    bias.assign(np.where(np.arange(14) == 0, 50, found).astype(np.float32))  # all is background
    assert judge.mask_ap() == 0
    np.testing.assert_array_equal(judge.samples(1)[0][1], picture)
    bias.assign(found)
    assert judge.mask_ap() == before
