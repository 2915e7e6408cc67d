"""The sheet of training samples."""

import numpy as np
import pytest
from PIL import Image

from mrcnn.data.policy import DEFAULT
from mrcnn.data.preview import TILE, preview, samples
from tests.helpers.coco_files import config, loader, read_data, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return read_data(write_data(tmp_path_factory.mktemp("data")))


def test_a_sheet_has_a_tile_for_each_sample(data, tmp_path):
    path = tmp_path / "sheet.png"
    preview(loader(data, augmentation=DEFAULT, workers=1), 5, path)
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width == pytest.approx(3 * TILE, rel=0.1)
        assert sheet.height == pytest.approx(2 * TILE, rel=0.1)
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize("mini", [True, False])
def test_samples_are_what_training_sees_with_objects_drawn(data, mini):
    batches = loader(data, shuffle=False, config=config(USE_MINI_MASK=mini))
    shown = list(samples(batches, 3))
    assert [caption for _, caption in shown] == ["0.png", "1.png", "2.png"]
    (batch,) = batches.epoch(0, 1)
    for i, (image, _) in enumerate(shown):
        plain = np.rint(batch[0][i] + batches.config.MEAN_PIXEL).astype(np.uint8)
        assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
        changed = (image != plain).any(axis=2)
        assert changed.any() == bool(batch[4][i].any())  # without objects nothing is drawn
        for y1, x1, y2, x2 in batch[5][i][batch[4][i] != 0]:
            assert changed[y1:y2, x1:x2].mean() > 0.5


def test_a_count_below_one_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match="count 0; pass 1 or more"):
        preview(loader(data), 0, tmp_path / "a.png")
