"""The metrics of one evaluation as a typed tree; `metrics.json` is written from it and read into it.

`docs/evaluation.md` describes the keys. A value that does not exist, such as the AP of a class
without instances, is None. Scores and shares lie in 0..1.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from mrcnn.core.files import read_regular
from mrcnn.core.text import writable

FILE = "metrics.json"
MOST_BYTES = 2**26  # of a file; a thousand classes take a tenth
KIND_NAMES = {"bbox": "box", "segm": "mask"}

# Checked when a file is read.
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Interval = tuple[float, float]
# What a score is of: ("AP50",), ("per_class", "skirt"), ("subsets", "scale", "small").
Key = tuple[str, ...]


class OperatingPoint(msgspec.Struct):
    """The score threshold of the best F1; None if no detection is right."""

    threshold: float | None
    precision: Share | None
    recall: Share
    f1: Share


class CalibrationBin(msgspec.Struct):
    """Detections with scores from `low` to `high`: their mean score, and the share that is right."""

    low: float
    high: float
    count: int
    score: float
    right: float


class Calibration(msgspec.Struct):
    """The expected calibration error (ECE) and its bins; empty bins are left out."""

    ece: float
    detections: int
    bins: list[CalibrationBin]


class AveragePrecision(msgspec.Struct):
    """AP of a class or a subset, with the 95 % interval of `AP`."""

    AP: Share | None
    AP50: Share | None
    AP75: Share | None
    interval: Interval | None


class ClassEntry(AveragePrecision):
    AR100: Share | None
    garments: Count
    best_f1: OperatingPoint | None


class SubsetEntry(AveragePrecision):
    garments: Count


class CocoNumbers(msgspec.Struct):
    """COCO's twelve numbers."""

    AP: Share | None
    AP50: Share | None
    AP75: Share | None
    APs: Share | None
    APm: Share | None
    APl: Share | None
    AR1: Share | None
    AR10: Share | None
    AR100: Share | None
    ARs: Share | None
    ARm: Share | None
    ARl: Share | None


class Section(CocoNumbers):
    """The metrics of boxes, or of masks; `subsets` by attribute and value."""

    intervals: dict[str, Interval | None]
    operating_point: OperatingPoint | None
    calibration: Calibration | None
    per_class: dict[str, ClassEntry]
    subsets: dict[str, dict[str, SubsetEntry]]


class PublishedSection(msgspec.Struct):
    """Published APs; those of subsets by attribute, in the order of its values."""

    AP: float
    AP50: float
    AP75: float
    subsets: dict[str, tuple[float, float, float]]


class ConfusedPair(msgspec.Struct):
    """How often two classes were taken for each other; `rate` is the share of all a and b."""

    a: str
    b: str
    count: int
    rate: float | None
    a_as_b: int
    b_as_a: int
    a_total: int
    b_total: int
    watched: bool


class Confusion(msgspec.Struct):
    """The confusion matrix: annotated classes by row, detected by column, background last."""

    by: str
    iou: float
    min_score: float
    classes: list[str]
    counts: list[list[int]]
    pairs: list[ConfusedPair]


class BoundaryMeans(msgspec.Struct):
    mask_iou: float
    boundary_iou: float
    pairs: int


class Boundary(BoundaryMeans):
    per_class: dict[str, BoundaryMeans | None]


class RatedImage(msgspec.Struct):
    image_id: int | str
    file_name: str
    quality: float


class RatedImages(msgspec.Struct):
    mean_quality: float | None
    worst: list[RatedImage]
    best: list[RatedImage]


class Source(msgspec.Struct):
    """Where the ground truth and the detections come from; text that UTF-8 can hold."""

    split: str | None = None
    annotations: str | None = None
    weights: str | None = None
    results: str | None = None
    notes: list[str] = []

    def __post_init__(self) -> None:
        for name in ("split", "annotations", "weights", "results"):
            text = getattr(self, name)
            setattr(self, name, text and writable(text))
        self.notes = [writable(note) for note in self.notes]


class Run(Source, kw_only=True):
    """What was scored, and how; `left_out` counts results of images that were not scored."""

    images: Count = msgspec.field(name="pictures")
    garments: Count
    crowds: Count
    detections: Count
    left_out: Count
    images_without_detections: Count = msgspec.field(name="pictures_without_detections")
    resamples: Count
    seed: Count
    written: str | None = None


class Difference(msgspec.Struct):
    """A score of this run and of an earlier one.

    `clear`: whether all resamples but the outermost agree on which run is better, and there are
    enough images for that to mean something.
    """

    this: float | None
    other: float | None
    difference: float | None
    interval: Interval | None
    clear: bool | None


class Comparison(msgspec.Struct):
    """Differences to an earlier run, by key joined with dots: "subsets.scale.small"."""

    path: str
    run: Run
    box: dict[str, Difference] | None = None
    mask: dict[str, Difference] | None = None

    @property
    def sections(self) -> dict[str, dict[str, Difference]]:
        """What both runs have: "box" and, with masks, "mask"."""
        found = {"box": self.box, "mask": self.mask}
        return {name: section for name, section in found.items() if section is not None}


class Metrics(msgspec.Struct):
    """All metrics of a run: the content of metrics.json."""

    format: Literal[1]
    run: Run
    box: Section
    mask: Section | None
    published: dict[str, PublishedSection] | None
    confusion: Confusion
    boundary: Boundary | None
    images: RatedImages = msgspec.field(name="pictures")
    compare: Comparison | None = None

    @property
    def sections(self) -> dict[str, Section]:
        """ "box" and, with masks, "mask"."""
        return {"box": self.box} if self.mask is None else {"box": self.box, "mask": self.mask}


# Mask R-CNN on the data set's released part, as its authors publish it.
PUBLISHED = {
    "box": PublishedSection(
        AP=0.638,
        AP50=0.789,
        AP75=0.745,
        subsets={
            "scale": (0.604, 0.700, 0.660),
            "occlusion": (0.712, 0.654, 0.372),
            "zoom_in": (0.695, 0.629, 0.466),
            "viewpoint": (0.624, 0.681, 0.641),
        },
    ),
    "mask": PublishedSection(
        AP=0.640,
        AP50=0.797,
        AP75=0.754,
        subsets={
            "scale": (0.634, 0.703, 0.666),
            "occlusion": (0.720, 0.656, 0.381),
            "zoom_in": (0.701, 0.637, 0.478),
            "viewpoint": (0.664, 0.689, 0.635),
        },
    ),
}


MOST_SHOWN = 100  # classes in a plot or a matrix


def shown_classes(metrics: Metrics) -> list[int]:
    """Positions of the classes that have room in a plot: of many those with the most garments."""
    garments = [-entry.garments for entry in metrics.box.per_class.values()]
    return sorted(sorted(range(len(garments)), key=garments.__getitem__)[:MOST_SHOWN])


def encode(metrics: Metrics) -> bytes:
    """The text of metrics.json."""
    return msgspec.json.format(msgspec.json.encode(metrics), indent=2) + b"\n"


def read_metrics(path: Path) -> Metrics:
    """The `Metrics` in a metrics.json.

    Raises:
        ValueError: if it is not a file that `encode` wrote.
    """
    try:
        return msgspec.json.decode(read_regular(path, MOST_BYTES), type=Metrics)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a metrics.json of format 1 ({error}); write it again: model.py "
            "evaluate --results with the results.json beside it"
        ) from None


class Score(NamedTuple):
    """One AP or AR of a section; intervals are of APs, numbers of garments of classes, subsets."""

    key: Key
    value: float | None
    interval: Interval | None
    garments: int | None = None


def scores(section: Section) -> Iterator[Score]:
    """Every AP and AR of a section: COCO's numbers, then by class, then by subset."""
    for name in CocoNumbers.__struct_fields__:
        yield Score((name,), getattr(section, name), section.intervals.get(name))
    for name, entry in section.per_class.items():
        yield Score(("per_class", name), entry.AP, entry.interval, entry.garments)
    for group, entries in section.subsets.items():
        for value, subset in entries.items():
            key = ("subsets", group, value)
            yield Score(key, subset.AP, subset.interval, subset.garments)


class SubsetRow(NamedTuple):
    """A row of a table of subsets; `entries` and `published` AP by "box" and "mask"."""

    attribute: str
    value: str
    garments: int
    entries: dict[str, SubsetEntry]
    published: dict[str, float]


def subset_rows(metrics: Metrics) -> list[SubsetRow]:
    """One row for each value of each attribute that the annotations have."""
    published = metrics.published or {}
    rows = []
    for attribute, subsets in metrics.box.subsets.items():
        for number, (value, entry) in enumerate(subsets.items()):
            entries = {k: s.subsets[attribute][value] for k, s in metrics.sections.items()}
            given = {k: s.subsets[attribute][number] for k, s in published.items()}
            rows.append(SubsetRow(attribute, value, entry.garments, entries, given))
    return rows
