"""metrics.json: what is written is read back, and other files are refused."""

import json

import pytest

from mrcnn.coco.ground_truth import read_ground_truth, read_results
from mrcnn.evaluation import metrics
from mrcnn.evaluation.comparison import read_earlier_run
from mrcnn.evaluation.scoring import EvaluationOptions, Source, evaluate
from tests.helpers.coco_cases import BOX, detection, one_image


@pytest.fixture
def scored():
    """A shirt, slightly occluded, found exactly."""
    truth = read_ground_truth(one_image((BOX, 1)))
    detections = read_results(truth, [detection(BOX, 0.9)])
    options = EvaluationOptions(resamples=2, seed=5)
    return evaluate(truth, detections, options, Source(split="made up", notes=["a note"])).metrics


def test_a_perfect_run_by_hand(scored):
    for value in (scored.box.AP, scored.mask.AP, scored.mask.AP75, scored.mask.AR1):
        assert value == pytest.approx(1)
    assert scored.mask.APs is None and scored.mask.APm == pytest.approx(1)
    assert scored.mask.operating_point == metrics.OperatingPoint(0.9, 1, 1, 1)
    assert scored.mask.calibration.ece == pytest.approx(0.1)
    assert scored.mask.per_class["shirt"].garments == 1
    assert scored.mask.subsets["occlusion"]["slight"].garments == 1
    assert scored.mask.subsets["occlusion"]["heavy"].AP is None
    assert scored.confusion.counts == [[1, 0], [0, 0]] and scored.confusion.pairs == []
    assert scored.boundary.mask_iou == scored.boundary.per_class["shirt"].boundary_iou == 1
    assert scored.images.mean_quality == 1 and scored.images.worst == []
    assert scored.published is None and scored.compare is None
    assert (scored.run.split, scored.run.notes) == ("made up", ["a note"])
    assert (scored.run.images, scored.run.garments, scored.run.seed) == (1, 1, 5)


def test_scores_of_a_section(scored):
    rows = {score.key: score for score in metrics.scores(scored.mask)}
    assert list(rows)[:2] == [("AP",), ("AP50",)] and len(rows) == 12 + 1 + 3
    assert rows["AP",].interval == pytest.approx((1, 1)) and rows["AR100",].interval is None
    assert rows["per_class", "shirt"].garments == 1
    assert rows["subsets", "occlusion", "heavy"].value is None


def test_subset_rows_beside_published_ones(scored):
    scored.published = metrics.PUBLISHED
    rows = metrics.subset_rows(scored)
    assert [row.value for row in rows] == ["slight", "medium", "heavy"]
    assert rows[2].published == {"box": 0.372, "mask": 0.381}
    assert pytest.approx(1) == rows[0].entries["mask"].AP
    scored.mask, scored.published = None, None
    assert list(metrics.subset_rows(scored)[0].entries) == ["box"]


def test_what_is_written_is_read_back(scored, tmp_path):
    path = tmp_path / "metrics.json"
    path.write_bytes(metrics.encode(scored))
    assert metrics.read_metrics(path) == scored
    content = json.loads(path.read_text())
    assert content["run"]["pictures"] == 1 and content["compare"] is None
    assert path.read_bytes().startswith(b'{\n  "format": 1,\n  "run": {\n    "split": "made up",')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"Invalid enum value 2 - at `\$.format`"),
        ({"box": None}, r"got `null` - at `\$.box`"),
        ({"run": {}}, "missing required field `pictures`"),
    ],
)
def test_other_files_are_refused(scored, tmp_path, change, message):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(json.loads(metrics.encode(scored)) | change))
    with pytest.raises(ValueError, match=f"metrics.json is not .* format 1 .*{message}"):
        read_earlier_run(tmp_path)


def test_an_earlier_run_needs_its_files(scored, tmp_path):
    with pytest.raises(ValueError, match="no metrics at .*metrics.json"):
        read_earlier_run(tmp_path)
    (tmp_path / "metrics.json").write_text('{"format": 1')
    with pytest.raises(ValueError, match="format 1 .*truncated"):
        read_earlier_run(tmp_path)
    (tmp_path / "metrics.json").write_bytes(metrics.encode(scored))
    with pytest.raises(ValueError, match="matches.npz is missing"):
        read_earlier_run(tmp_path)
