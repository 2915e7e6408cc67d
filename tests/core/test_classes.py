import pytest

from mrcnn.core.classes import (
    COCO,
    DEEPFASHION2,
    DEEPFASHION2_CATEGORY_IDS,
    check_ids,
    check_names,
    names_for,
    same_names,
)


def test_every_garment_has_its_id():
    assert list(enumerate(DEEPFASHION2)) == [
        (0, "BG"),
        (1, "short_sleeved_shirt"),
        (2, "long_sleeved_shirt"),
        (3, "short_sleeved_outwear"),
        (4, "long_sleeved_outwear"),
        (5, "vest"),
        (6, "sling"),
        (7, "shorts"),
        (8, "trousers"),
        (9, "skirt"),
        (10, "short_sleeved_dress"),
        (11, "long_sleeved_dress"),
        (12, "vest_dress"),
        (13, "sling_dress"),
    ]


def test_the_annotations_names_mean_the_same_ids():
    for name, category_id in DEEPFASHION2_CATEGORY_IDS.items():
        ours = name.replace("sleeve ", "sleeved ").replace("top", "shirt").replace(" ", "_")
        assert DEEPFASHION2[category_id] == ours


def test_coco():
    assert len(COCO) == 81
    assert (COCO[0], COCO[1], COCO[27], COCO[28], COCO[80]) == (
        "BG",
        "person",
        "handbag",
        "tie",
        "toothbrush",
    )


def test_names_by_class_count():
    assert names_for(14) == DEEPFASHION2
    assert names_for(81) == COCO
    assert names_for(3) == ("BG", "class_1", "class_2")


def test_a_list_without_background_is_refused():
    with pytest.raises(ValueError, match=r"13 class names for 14 classes.*put 'BG' first"):
        check_names(DEEPFASHION2[1:], 14)
    with pytest.raises(ValueError, match="id 0 is the background"):
        check_names(DEEPFASHION2[1:], 13)
    assert check_names(list(DEEPFASHION2), 14) == DEEPFASHION2


def test_names_are_the_same_however_they_are_spelled():
    assert same_names(
        DEEPFASHION2, ["background", *(n.replace("_", " ") for n in DEEPFASHION2[1:])]
    )
    assert same_names(["BG", "Skirt"], ["BG", "skirt "])
    assert not same_names(["BG", "skirt", "vest"], ["BG", "vest", "skirt"])
    assert not same_names(["BG", "skirt"], ["BG", "skirt", "vest"])


def test_ids_of_a_data_set():
    assert check_ids(None, 4) == (0, 1, 2, 3)
    assert check_ids([0, 0, 1, 2], 4) == (0, 0, 1, 2)  # the background's means nothing
    assert check_ids([0, 55, 7], 3) == (0, 55, 7)
    for wrong in ([0, 7], [7, 20, 55], [0, 7, 7, 8]):
        with pytest.raises(ValueError, match="for 4 classes, background included; give each"):
            check_ids(wrong, 4)


@pytest.mark.parametrize(
    "name", ["", " ", "a\0b", "a\nb", "\x1b[31m", "\x85", "\u2028", "\ud800", "x" * 201]
)
def test_names_that_can_not_be_shown_are_refused(name):
    with pytest.raises(ValueError, match="can't be shown; give 1 to 200 characters") as error:
        check_names(["BG", "hat", name], 3)
    assert str(error.value).isprintable() and len(str(error.value)) < 350


def test_names_of_all_languages_pass_and_none_twice():
    names = ("BG", "кепка", "帽子", "x" * 200, "<b>", "می‌خواهم")
    assert check_names(names, 6) == names
    with pytest.raises(ValueError, match="'hat' is given twice"):
        check_names(["BG", "hat", "hat"], 3)
