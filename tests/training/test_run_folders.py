"""Which run folder, and which checkpoint in it, is the last."""

import pytest

from mrcnn.training.run_folders import (
    checkpoint_path,
    find_last,
    find_last_run,
    make_run_folder,
    run_folders,
)


def make_run(root, time, epochs=(), name="clothing", listed=False):
    folder = root / f"{name}{time}"
    folder.mkdir(parents=True)
    for epoch in epochs:
        checkpoint_path(folder, name, epoch).touch()
    if listed:
        (folder / "checkpoints.json").touch()
    return folder


def test_run_folders_are_those_of_the_name_newest_first(tmp_path):
    made = [make_run(tmp_path, time) for time in ("20251231T2359", "20260101T0000")]
    for other in ("20260102T0000.bak", "20260102", "20260102T000000"):
        make_run(tmp_path, other)
    make_run(tmp_path, "20260103T0000", name="my_clothing")
    make_run(tmp_path, "20260103T0000", name="clothing2")
    assert run_folders(tmp_path, "Clothing") == made[::-1]
    assert run_folders(tmp_path, "none") == run_folders(tmp_path / "no", "clothing") == []


def test_a_name_is_no_pattern(tmp_path):
    plus = make_run(tmp_path, "20260101T0000", (3,), name="a+b[1]")
    make_run(tmp_path, "20260101T0000", (3,), name="aab1")
    assert run_folders(tmp_path, "a+b[1]") == [plus]
    assert find_last(tmp_path, "a+b[1]") == str(plus / "mask_rcnn_a+b[1]_0003.h5")


def test_the_last_checkpoint_is_of_the_highest_epoch(tmp_path):
    run = make_run(tmp_path, "20260101T0000", (2, 999, 9999, 10000, 12))
    for other in (
        "mask_rcnn_clothing_10000.state.h5",
        "mask_rcnn_clothing_20000.state.h5",
        "mask_rcnn_clothing_30000_copy.h5",
        "mask_rcnn_deepfashion2_12345.h5",
        ".mask_rcnn_clothing_40000.h5.x1.tmp",
        "mask_rcnn_coco.h5",
        "interrupted.h5",
        "best.h5",
    ):
        (run / other).touch()
    assert find_last(tmp_path, "Clothing") == str(run / "mask_rcnn_clothing_10000.h5")


def test_runs_without_a_checkpoint_are_passed_over(tmp_path):
    older = make_run(tmp_path, "20260101T0000", (1,), listed=True)
    weights_only = make_run(tmp_path, "20260102T0000", (5,))
    make_run(tmp_path, "20260103T0000")
    (tmp_path / "clothing20260104T0000").touch()  # a file, no folder
    assert find_last(tmp_path, "clothing") == str(weights_only / "mask_rcnn_clothing_0005.h5")
    # To go on, a list is needed: matterport's runs have none.
    assert find_last_run(tmp_path, "clothing") == older
    # A run that was stopped in its first epoch has a list, but no whole epoch.
    newest = make_run(tmp_path, "20260105T0000", listed=True)
    assert find_last_run(tmp_path, "Clothing") == newest


def test_no_run_at_all(tmp_path):
    for folder in (tmp_path, tmp_path / "no"):
        with pytest.raises(
            FileNotFoundError, match="no checkpoint of a run named 'clothing' in .*start a new one"
        ):
            find_last(folder, "Clothing")
        with pytest.raises(
            FileNotFoundError, match="no run named 'clothing' to go on with in .*start a new one"
        ):
            find_last_run(folder, "Clothing")


def test_new_runs_of_the_same_minute_get_folders_of_their_own(tmp_path):
    first = make_run_folder(tmp_path / "logs" / "clothing20251231T2358")
    assert first.is_dir() and first.name == "clothing20251231T2358"
    again = [make_run_folder(first).name for _ in range(2)]
    assert again == ["clothing20251231T2359", "clothing20260101T0000"]
    assert [p.name for p in run_folders(first.parent, "clothing")] == [*again[::-1], first.name]


def test_a_folder_of_ones_own_name_is_taken_as_it_is(tmp_path):
    assert make_run_folder(tmp_path / "mine") == make_run_folder(tmp_path / "mine")
