"""Classes joined and chosen by name, and images held out. No TensorFlow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcnn.coco.reader import read_coco
from mrcnn.coco.selection import (
    check_unique_names,
    choose_classes,
    held_out,
    joined_categories,
    match_names,
    with_categories,
    with_local_names,
    without_placeholder,
)
from tests.helpers.layout_files import content


def table(*categories, images=6, **changes):
    names = [f"{i}.jpg" for i in range(images)]
    return read_coco(content(names, categories or ((7, "shoe"), (20, "hat"))) | changes)


def labels(read):
    """Name of the class of each annotation."""
    return [read.categories[k].name for k in read.classes]


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        ([], [], {}),
        (["a", "b"], ["b", "c", "a"], {0: 2, 1: 0}),
        (["Long_Coat"], ["long coat "], {0: 0}),
        (["coat", "Coat"], ["Coat"], {1: 0}),
        (["COAT"], ["coat", "Coat"], {}),
        (["Coat", "b"], ["coat", "COAT", "B"], {1: 2}),
        (["traffic light"], ["traffic light, signal"], {0: 0}),
        (["a", "a"], ["a"], {}),
    ],
)
def test_names_are_matched(ours, theirs, pairs):
    assert match_names(ours, theirs) == pairs
    assert match_names(theirs, ours) == {b: a for a, b in pairs.items()}


@pytest.mark.parametrize("ids", [(7, 20, 55), (0, 1, 2), (55, 7, 20)])
def test_any_ids_are_kept(ids):
    (joined,) = [joined_categories([table(*zip(ids, "abc", strict=True))])]
    assert [(c.id, c.name) for c in joined] == sorted(zip(ids, "abc", strict=True))


def test_classes_of_several_files_are_joined_by_name():
    one, two = table((1, "shoe"), (2, "hat")), table((1, "Hat"), (2, "bag"), (9, "belt"))
    joined = joined_categories([one, two])
    # bag can't keep the id 2, which is hat's; the next free one is taken.
    assert [(c.id, c.name) for c in joined] == [(1, "shoe"), (2, "hat"), (3, "bag"), (9, "belt")]
    assert labels(one) == ["hat", "shoe"] * 3 == labels(with_categories(one, joined))
    assert labels(two) == ["bag", "belt", "Hat"] * 2
    assert labels(with_categories(two, joined)) == ["bag", "belt", "hat"] * 2


def test_annotations_of_other_classes_are_left_out():
    read = table((1, "shoe"), (2, "hat"))
    kept = with_categories(read, read.categories[1:])
    assert labels(kept) == ["hat"] * 3 and kept.image.tolist() == [0, 2, 4]
    assert len(kept.images) == 6
    assert len(with_categories(read, [])) == 0


def test_classes_are_chosen_by_name():
    read = choose_classes(table((7, "shoe"), (20, "hat"), (55, "bag")), ["bag", "SHOE"])
    assert [(c.id, c.name) for c in read.categories] == [(7, "shoe"), (55, "bag")]
    assert labels(read) == ["bag", "shoe"] * 2
    with pytest.raises(ValueError, match=r"has no categories \['belt'\]; it has \['shoe', 'hat'\]"):
        choose_classes(table(), ["hat", "belt"])


def categories(*entries):
    return [{"id": i, "name": name, "supercategory": group} for i, name, group in entries]


def test_the_project_of_roboflow_is_no_class():
    groups = categories(
        (0, "animals", "none"), (1, "kangaroo", "animals"), (2, "wallaby", "animals")
    )
    read = without_placeholder(table((1, "kangaroo"), (2, "wallaby"), categories=groups))
    assert [(c.id, c.name) for c in read.categories] == [(1, "kangaroo"), (2, "wallaby")]
    assert labels(read) == ["wallaby", "kangaroo"] * 3
    # A project that is called like its class.
    twins = categories((0, "kangaroo", "none"), (1, "kangaroo", "kangaroo"))
    read = without_placeholder(table((1, "kangaroo"), categories=twins))
    assert [c.id for c in read.categories] == [1]
    check_unique_names(read)


@pytest.mark.parametrize(
    "groups",
    [
        # It has annotations: a class like any other.
        categories((1, "shoe", "none"), (2, "hat", "shoe")),
        # A class without examples that isn't the others' group, as COCO and CVAT write them.
        categories((1, "shoe", ""), (2, "hat", ""), (3, "bag", "")),
        categories((1, "shoe", "none"), (2, "hat", "none"), (3, "bag", "none")),
        categories((1, "shoe", ["x"]), (2, "hat", {"a": 1})),
    ],
)
def test_other_categories_stay(groups):
    read = table((1, "shoe"), (2, "hat"), categories=groups)
    assert without_placeholder(read) is read


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="categories 1 and 2 have the same name, 'shoe'"):
        check_unique_names(table((1, "shoe"), (2, "shoe")))


# --- Held out -----------------------------------------------------------------------------------


@given(st.integers(2, 60), st.floats(0.01, 0.99))
def test_a_share_is_held_out(images, share):
    out = held_out(table(images=images), share)
    assert out == sorted(set(out)) and 1 <= len(out) < images
    assert len(out) == min(max(1, round(share * images)), images - 1)


def test_the_same_images_are_held_out_whatever_their_order():
    names = [f"{i}.jpg" for i in range(30)]
    rng = np.random.default_rng(0)
    read = [read_coco(content(order)) for order in (names, rng.permutation(names).tolist())]
    moved = read_coco(content([f"images\\{name}" for name in names]))
    chosen = [{t.images[i].file_name for i in held_out(t, 0.2)} for t in (*read, moved)]
    assert chosen[0] == chosen[1] == {name.removeprefix("images\\") for name in chosen[2]}
    # A larger share has the images of a smaller one, and they aren't the first ones.
    more = {read[0].images[i].file_name for i in held_out(read[0], 0.4)}
    assert chosen[0] < more and chosen[0] != set(names[:6])


@pytest.mark.parametrize("images", [0, 1])
def test_too_few_images_to_hold_out(images):
    with pytest.raises(ValueError, match=f"has {images} images, of which none can be held out"):
        held_out(table(images=images), 0.1)


def test_addresses_of_label_studio_become_names():
    names = ["/data/upload/3/a.jpg", "/data/local-files/?d=x/b.jpg", "s3://bucket/c.jpg"]
    names += ["x/d.jpg", "/home/me/e.jpg", "C:/f.jpg"]
    read = with_local_names(read_coco(content(names)))
    assert [e.file_name for e in read.images] == [
        *("a.jpg", "b.jpg", "c.jpg", "x/d.jpg"),
        *("/home/me/e.jpg", "C:/f.jpg"),
    ]
    plain = table()
    assert with_local_names(plain) is plain
