"""Data sets: ids, maps and images of `Dataset`; hand-written COCO files through `CocoDataset`."""

import json

import numpy as np
import pytest
from PIL import Image

from mrcnn.core.classes import DEEPFASHION2, DEEPFASHION2_CATEGORY_IDS
from mrcnn.data.dataset import CocoDataset, Dataset, source_ids

HEIGHT, WIDTH = 8, 10
# Rows 1..3, columns 2..5.
RECTANGLE = [2, 1, 6, 1, 6, 4, 2, 4]


@pytest.fixture
def two_sources():
    dataset = Dataset()
    dataset.add_class("street", 7, "skirt")
    dataset.add_class("shop", 7, "trousers, jeans")
    dataset.add_class("street", 3, "vest")
    dataset.add_class("street", 7, "skirt again")
    dataset.add_image("street", "a", "a.jpg", weather="dry")
    dataset.add_image("shop", 12, "b.jpg")
    dataset.prepare()
    return dataset


def categories(names=DEEPFASHION2[1:], first=1):
    return [{"id": i, "name": name} for i, name in enumerate(names, first)]


DEEPFASHION2_CATEGORIES = categories()


def annotation(category_id, segmentation, image_id=1, **more):
    return {
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": segmentation,
    } | more


@pytest.fixture
def coco(tmp_path):
    """Writes images 1 and 2 and a COCO file; returns a loader of it."""

    def load(annotations=(), categories=DEEPFASHION2_CATEGORIES, size=(WIDTH, HEIGHT), **arguments):
        images = []
        for image_id in (2, 1):
            name = f"{image_id}.png"
            Image.new("RGB", (WIDTH, HEIGHT), (image_id, 0, 0)).save(tmp_path / name)
            images.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        content = {"images": images, "annotations": list(annotations), "categories": categories}
        (tmp_path / "coco.json").write_text(json.dumps(content))
        dataset = CocoDataset()
        dataset.load_coco(tmp_path / "coco.json", tmp_path, **arguments)
        dataset.prepare()
        return dataset

    return load


# --- Dataset ----------------------------------------------------------------------------------


def test_ids_follow_the_order_of_adding(two_sources):
    assert two_sources.class_names == ["BG", "skirt", "trousers", "vest"]
    assert two_sources.num_classes == 4
    assert two_sources.num_images == 2
    np.testing.assert_array_equal(two_sources.class_ids, [0, 1, 2, 3])
    np.testing.assert_array_equal(two_sources.image_ids, [0, 1])
    assert two_sources.image_ids is two_sources._image_ids
    assert two_sources.image_info[0] == {
        "id": "a",
        "source": "street",
        "path": "a.jpg",
        "weather": "dry",
    }


def test_maps_between_sources_and_internal_ids(two_sources):
    assert two_sources.sources == ["street", "shop"]
    assert two_sources.source_class_ids == {"street": [0, 1, 3], "shop": [0, 2]}
    assert two_sources.image_from_source_map == {"street.a": 0, "shop.12": 1}
    assert two_sources.map_source_class_id("shop.7") == 2
    assert two_sources.get_source_class_id(3, "street") == 3
    assert two_sources.source_image_link(1) == "b.jpg"
    assert two_sources.image_reference(1) == ""


def test_unknown_classes_are_named(two_sources):
    with pytest.raises(KeyError, match=r"shop\.8.*street\.7"):
        two_sources.map_source_class_id("shop.8")
    with pytest.raises(ValueError, match=r"trousers.*'shop'"):
        two_sources.get_source_class_id(2, "street")


def test_source_names_with_dots_and_class_maps_are_refused():
    dataset = Dataset()
    with pytest.raises(ValueError, match="must not contain"):
        dataset.add_class("v1.0", 1, "skirt")
    with pytest.raises(ValueError, match="must not contain"):
        dataset.add_image("v1.0", 1, "a.jpg")
    with pytest.raises(ValueError, match="class_map"):
        dataset.prepare({1: 2})


def test_the_empty_dataset_has_the_background_only():
    dataset = Dataset()
    dataset.prepare()
    assert dataset.class_names == ["BG"]
    assert dataset.num_images == 0
    assert len(dataset.image_ids) == 0


def test_load_mask_of_the_base_class_warns_and_is_empty(two_sources):
    class Own(Dataset):
        def load_mask(self, image_id):
            return super(self.__class__, self).load_mask(image_id)

    own = Own()
    own.add_image("street", 1, "a.jpg")
    own.prepare()
    with pytest.warns(UserWarning, match="override load_mask"):
        mask, class_ids = own.load_mask(0)
    assert (mask.shape, mask.dtype) == ((0, 0, 0), bool)
    assert (class_ids.shape, class_ids.dtype) == ((0,), np.int32)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_images_come_as_rgb_of_the_stored_orientation(tmp_path, mode):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, but masks refer to the stored pixels
    Image.new("RGB", (WIDTH, HEIGHT), "white").convert(mode).save(tmp_path / "a.png", exif=exif)
    dataset = Dataset()
    dataset.add_image("x", 1, tmp_path / "a.png")
    dataset.prepare()
    image = dataset.load_image(0)
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert image.min() == 255


# --- CocoDataset ------------------------------------------------------------------------------


def test_ids_keep_their_names_whatever_the_order_in_the_file(coco):
    dataset = coco(categories=categories()[::-1])
    assert tuple(dataset.class_names) == DEEPFASHION2
    for class_id, name in enumerate(DEEPFASHION2[1:], 1):
        assert dataset.map_source_class_id(f"deepfashion2.{class_id}") == class_id
        assert dataset.class_info[class_id]["name"] == name


def test_images_are_in_the_order_of_their_ids(coco):
    dataset = coco()
    assert [info["id"] for info in dataset.image_info] == [1, 2]
    assert dataset.load_image(1)[0, 0].tolist() == [2, 0, 0]
    assert [info["id"] for info in coco(limit=1).image_info] == [1]


def test_polygons_rles_and_crowds_are_decoded(coco):
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[1:4, 2:6] = True
    runs = np.flatnonzero(np.diff(np.r_[False, expected.ravel("F"), False]))
    counts = np.diff(np.r_[0, runs, expected.size]).tolist()
    rle = {"size": [HEIGHT, WIDTH], "counts": counts}
    two_parts = [[0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 6, 4, 6, 6, 4, 6]]
    dataset = coco(
        [
            annotation(8, [RECTANGLE], iscrowd=0),
            annotation(2, rle, iscrowd=1),
            annotation(13, two_parts),
        ]
    )
    mask, class_ids = dataset.load_mask(0)
    assert (mask.dtype, class_ids.dtype) == (bool, np.int32)
    assert class_ids.tolist() == [8, -2, 13]
    np.testing.assert_array_equal(mask[:, :, 0], expected)
    np.testing.assert_array_equal(mask[:, :, 1], expected)
    assert np.argwhere(mask[:, :, 2]).tolist() == [
        *[[0, 0], [0, 1], [1, 0], [1, 1]],
        *[[4, 4], [4, 5], [5, 4], [5, 5]],
    ]


def test_outlines_and_class_ids_come_without_masks(coco):
    dataset = coco([annotation(8, [RECTANGLE], iscrowd=0), annotation(2, [RECTANGLE], iscrowd=1)])
    shapes, class_ids = dataset.load_outlines(0)
    assert class_ids.tolist() == dataset.load_class_ids(0).tolist() == [8, -2]
    assert class_ids.dtype == np.int32
    assert [shape.place(np.eye(2, 3), (HEIGHT, WIDTH))[0] for shape in shapes] == [(1, 2, 4, 6)] * 2
    shapes, class_ids = dataset.load_outlines(1)
    assert (shapes, class_ids.tolist(), dataset.load_class_ids(1).tolist()) == ([], [], [])


def test_annotations_may_be_a_plain_list(coco):
    dataset = coco()
    dataset.image_info[0]["annotations"] = [annotation(8, [RECTANGLE], iscrowd=1)]
    assert dataset.load_class_ids(0).tolist() == dataset.load_mask(0)[1].tolist() == [-8]


def test_own_masks_come_before_outlines(coco):
    class Own(CocoDataset):
        def load_mask(self, image_id):
            return np.ones((HEIGHT, WIDTH, 1), bool), np.array([5], np.int32)

    own = Own()
    own.__dict__.update(coco([annotation(8, [RECTANGLE])]).__dict__)
    assert own.load_outlines(0) is None
    assert own.load_class_ids(0).tolist() == [5]


def test_compressed_rles_are_decoded(coco):
    from pycocotools import mask as coco_mask

    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[3:, :4] = True
    rle = coco_mask.encode(np.asfortranarray(expected, np.uint8))
    rle["counts"] = rle["counts"].decode()
    mask, _ = coco([annotation(1, rle)]).load_mask(0)
    np.testing.assert_array_equal(mask[:, :, 0], expected)


def test_a_image_without_objects_gives_an_empty_set(coco):
    mask, class_ids = coco([annotation(1, [RECTANGLE])]).load_mask(1)
    assert (mask.shape, mask.dtype) == ((HEIGHT, WIDTH, 0), bool)
    assert (class_ids.shape, class_ids.dtype) == ((0,), np.int32)


def test_unusable_segmentations_are_counted_in_a_warning(coco):
    with pytest.warns(UserWarning, match="left out 2 annotations"):
        dataset = coco(
            [
                annotation(1, [RECTANGLE]),
                annotation(1, [[0, 0, 5, 5]]),
                annotation(1, []),
            ]
        )
    assert dataset.load_mask(0)[0].shape[-1] == 1


def test_chosen_classes_only(coco):
    annotations = [annotation(8, [RECTANGLE]), annotation(9, [RECTANGLE])]
    dataset = coco(annotations, class_names=["BG", "skirt", "vest"])
    assert dataset.class_names == ["BG", "vest", "skirt"]
    assert dataset.num_images == 2
    assert dataset.load_mask(0)[1].tolist() == [2]
    with pytest.raises(ValueError, match=r"no categories \['scarf'\]"):
        coco(class_names=["scarf"])


def test_categories_that_contradict_deepfashion2_are_refused(coco):
    with pytest.raises(ValueError, match=r"short_sleeved_shirt.*id 0.*gives it 1"):
        coco(categories=categories(first=0))
    swapped = ["trousers", "shorts"]
    with pytest.raises(ValueError, match="'trousers' has the id 1"):
        coco(categories=categories(swapped))
    renamed = [*DEEPFASHION2[1:13], "scarf"]
    with pytest.raises(ValueError, match=r"\['scarf'\] are not categories"):
        coco(categories=categories(renamed))
    assert coco(categories=categories(swapped), source="own").class_names[1] == "trousers"


def test_the_spelling_of_the_annotation_files_is_known(coco):
    dataset = coco(categories=categories(DEEPFASHION2_CATEGORY_IDS))
    assert dataset.class_names[10] == "short sleeve dress"


def test_sizes_that_do_not_fit_name_the_file(coco):
    dataset = coco([annotation(1, [RECTANGLE])], size=(HEIGHT, WIDTH))
    with pytest.raises(ValueError, match=r"1\.png is 10x8 .* are for 8x10"):
        dataset.load_image(0)
    rle = {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}
    with pytest.raises(ValueError, match=r"1\.png: its RLE is of size \[10, 8\]"):
        coco([annotation(1, rle)]).load_mask(0)


def test_files_of_another_kind_are_refused(tmp_path):
    for content in ([], {"images": []}):
        (tmp_path / "other.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="not a COCO instances file"):
            CocoDataset().load_coco(tmp_path / "other.json", tmp_path)


def test_ids_in_the_source(coco):
    ids = [7, 20, 0]
    dataset = coco(
        categories=[{"id": i, "name": name} for i, name in zip(ids, "abc", strict=True)],
        source="own",
    )
    assert source_ids(dataset) == [0, 0, 7, 20] and dataset.class_names == ["BG", "c", "a", "b"]
    dataset.add_class("other", 7, "d")
    assert source_ids(dataset) is None  # two classes have the id 7
    named = Dataset()
    named.add_class("own", "x", "a")
    assert source_ids(named) is None and source_ids(Dataset()) == [0]
