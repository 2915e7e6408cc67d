"""How `model.py train` reads its data folders, without TensorFlow."""

import json

import numpy as np
import pytest

import model
from mrcnn.classes import DEEPFASHION2


def write_coco(folder, class_ids):
    """A split "train" with one picture, never read here, for each class id."""
    (folder / "train" / "image").mkdir(parents=True)
    images = [
        {"id": i + 1, "file_name": f"{i}.jpg", "width": 9, "height": 9}
        for i in range(len(class_ids))
    ]
    square = {"segmentation": [[0, 0, 5, 0, 5, 5]], "bbox": [0, 0, 5, 5], "area": 12, "iscrowd": 0}
    annotations = [
        {"id": i + 1, "image_id": i + 1, "category_id": class_id, **square}
        for i, class_id in enumerate(class_ids)
    ]
    names = [{"id": i, "name": name} for i, name in enumerate(DEEPFASHION2) if i]
    content = {"images": images, "annotations": annotations, "categories": names}
    (folder / "train_coco.json").write_text(json.dumps(content))
    return folder


def parsed(*options):
    return model.build_parser().parse_args(["train", *map(str, options)])


def test_training_pictures_of_several_folders_are_joined(tmp_path):
    one, two = write_coco(tmp_path / "one", [1, 2, 1]), write_coco(tmp_path / "two", [8])
    args = parsed("--data", one, two)
    dataset, counts = model.load_folders(model.data_folders(args), "train")
    assert counts == [3, 1] and dataset.num_classes == 14
    assert [int(dataset.load_class_ids(i)[0]) for i in dataset.image_ids] == [1, 2, 1, 8]
    parents = [info["path"].split("/")[-4] for info in dataset.image_info]
    assert parents == ["one", "one", "one", "two"]
    assert model.load_folders(model.data_folders(args), "train", limit=1)[1] == [1, 1]


def test_annotations_may_lie_elsewhere(tmp_path):
    write_coco(tmp_path / "a", [1])
    write_coco(tmp_path / "b", [2, 3])
    (tmp_path / "pictures" / "train" / "image").mkdir(parents=True)
    both = [tmp_path / "pictures"] * 2
    args = parsed("--data", *both, "--annotations", tmp_path / "a", tmp_path / "b")
    assert model.load_folders(model.data_folders(args), "train")[1] == [1, 2]
    args = parsed("--data", *both, "--annotations", tmp_path / "a")
    with pytest.raises(model.UsageError, match="--data has 2 folders but --annotations 1"):
        model.data_folders(args)


def test_each_folders_pictures_come_as_often_as_asked(tmp_path):
    folders = write_coco(tmp_path / "one", [1, 2]), write_coco(tmp_path / "two", [8])
    options = ["--data", *folders]
    dataset, counts = model.load_folders(model.data_folders(parsed(*options)), "train")
    assert model.count_visits(parsed(*options), dataset, counts).tolist() == [1, 1, 1]
    args = parsed(*options, "--repeat", "2.5", "1", "--focus", "trousers:3")
    np.testing.assert_allclose(model.count_visits(args, dataset, counts), [2.5, 2.5, 3])
    with pytest.raises(
        model.UsageError, match="--repeat has 1 numbers; give one for each of the 2"
    ):
        model.count_visits(parsed(*options, "--repeat", "2"), dataset, counts)
    with pytest.raises(SystemExit):
        parsed(*options, "--repeat", "0.5", "1")
