"""The plots of an evaluation as PNG files in memory. matplotlib is loaded when one is drawn."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn.core.text import cut
from mrcnn.evaluation import diagnosis
from mrcnn.evaluation.average_precision import RECALLS
from mrcnn.evaluation.metrics import KIND_NAMES, shown_classes, subset_rows
from mrcnn.evaluation.scoring import EvaluationResult
from mrcnn.render.drawing import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
PLOTS = ("pr_curves", "f1", "calibration", "confusion", "subsets")
STYLES = ("-", "--", ":")
LONGEST = 32  # characters of a class name
FARTHEST = 1e9  # of a score on an axis; matplotlib can't label all that floats can be


def draw_plots(evaluation: EvaluationResult) -> dict[str, bytes]:
    """PNG bytes by name, of `PLOTS`; subsets only where the annotations have attributes."""
    with _plain_text():
        plots = {
            "pr_curves": _pr_curves(evaluation),
            "f1": _f1(evaluation),
            "calibration": _calibration(evaluation),
            "confusion": _confusion(evaluation),
        }
        if evaluation.metrics.box.subsets:
            plots["subsets"] = _subsets(evaluation)
    return plots


@contextmanager
def _plain_text() -> Iterator[None]:
    """Within, no text is a formula, and no word is lost on letters that the font lacks, or on
    scores as large as floats can be."""
    import matplotlib as mpl

    with (
        mpl.rc_context({"text.parse_math": False, "text.usetex": False}),
        warnings.catch_warnings(),
        np.errstate(over="ignore", invalid="ignore"),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def _axes(width: float, height: float) -> "tuple[Figure, Axes]":
    # Figure and not pyplot: nothing global is touched, and no display is asked for.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _pr_curves(evaluation: EvaluationResult) -> bytes:
    """Precision over recall at IoU 0.5, one line for each class that has instances."""
    classes = shown_classes(evaluation.metrics)
    figure, axes = _axes(8, max(4.8, 0.16 * len(classes) + 0.8))
    kind = evaluation.kind
    table = evaluation.tables[kind]
    for k in classes:
        name = evaluation.truth.names[k]
        curve = table.precision[0, :, k, 0]
        if np.isnan(curve[0]):
            continue
        color = np.array(PALETTE[1 + k % (len(PALETTE) - 1)]) / 255
        style = STYLES[k % len(STYLES)]
        # The blank: a name that begins with _ would be left out of the legend.
        label = f" {cut(name, LONGEST)} ({curve.mean():.2f})"
        axes.plot(RECALLS, curve, style, color=color, linewidth=1.8, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(f"{KIND_NAMES[kind]} at IoU 0.5 (AP50 in brackets)", fontsize=10)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=7.5, frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")
    return _png(figure)


def _f1(evaluation: EvaluationResult) -> bytes:
    """F1 of all classes together over the score threshold."""
    figure, axes = _axes(5.8, 4.6)
    scores = np.clip(evaluation.detections.scores, -FARTHEST, FARTHEST)
    low, high = (min(scores.min(), 0), max(scores.max(), 1)) if len(scores) else (0, 1)
    thresholds = np.linspace(low, high, 201)
    for kind, found in evaluation.matches.items():
        name = KIND_NAMES[kind]
        (line,) = axes.plot(thresholds, diagnosis.f1_curve(found, thresholds), label=name)
        best = evaluation.metrics.sections[name].operating_point
        if best and best.threshold is not None and abs(best.threshold) <= FARTHEST:
            axes.plot(best.threshold, best.f1, "o", color=line.get_color())
            axes.annotate(
                f"{best.f1:.2f} at {best.threshold:{'.2f' if abs(best.threshold) < 1e5 else '.2g'}}",
                (best.threshold, best.f1),
                textcoords="offset points",
                xytext=(6, 6 if kind == "bbox" else -12),
                fontsize=8,
            )
    axes.set(xlabel="score threshold", ylabel="F1 at IoU 0.5", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return _png(figure)


def _calibration(evaluation: EvaluationResult) -> bytes:
    """Share of true positives over the score; the diagonal would be perfect."""
    figure, axes = _axes(5.8, 4.6)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="calibrated")
    for kind, marker in zip(evaluation.matches, "os", strict=False):
        name = KIND_NAMES[kind]
        found = evaluation.metrics.sections[name].calibration
        if found:
            axes.plot(
                [b.score for b in found.bins],
                [b.right for b in found.bins],
                marker=marker,
                markersize=4,
                label=f"{name} (ECE {found.ece:.3f})",
            )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share of true positives at IoU 0.5")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    return _png(figure)


def _confusion(evaluation: EvaluationResult) -> bytes:
    """Shares of each true class by predicted class, with the counts written in."""
    confusion = evaluation.metrics.confusion
    shown = [*shown_classes(evaluation.metrics), len(confusion.classes) - 1]
    counts = np.array(confusion.counts)
    totals, counts = counts.sum(axis=1)[shown, np.newaxis], counts[np.ix_(shown, shown)]
    names = [cut(confusion.classes[k], LONGEST) for k in shown]
    side = max(4.0, 0.5 * len(names) + 2, 2.5 + 0.11 * max(map(len, names)))
    figure, axes = _axes(side, side)
    shares = counts / np.maximum(totals, 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > 0.5 else "black"
        value = str(counts[row, column])
        axes.text(column, row, value, ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(
        xlabel="detected (background: missed)", ylabel="annotated (background: false positive)"
    )
    axes.spines[:].set_visible(False)
    return _png(figure)


def _subsets(evaluation: EvaluationResult) -> bytes:
    """AP of each subset beside the published baseline."""
    name = KIND_NAMES[evaluation.kind]
    rows = subset_rows(evaluation.metrics)
    entries = [row.entries[name] for row in rows]
    figure, axes = _axes(9, 4.2)
    places = np.arange(len(rows)) + 0.6 * (np.arange(len(rows)) // 3)
    values = np.array([np.nan if e.AP is None else e.AP for e in entries])
    ranges = [e.interval or (v, v) for e, v in zip(entries, values, strict=True)]
    bars: dict[str, Any] = {
        "yerr": np.abs(np.array(ranges).T - values),
        "error_kw": {"elinewidth": 1},
        "label": f"this run, {name}",
    }
    published = [row.published[name] for row in rows if row.published]
    width = 0.4 if published else 0.7
    axes.bar(places, values, width, **bars)
    if published:
        label = "published Mask R-CNN on DeepFashion2"
        axes.bar(places + width, published, width, color="0.75", label=label)
    labels = [f"{row.value}\n({row.garments})" for row in rows]
    axes.set_xticks(places + (width / 2 if published else 0), labels, fontsize=8)
    for i in range(0, len(rows), 3):
        title = rows[i].attribute
        axes.text(places[i + 1] + width / 2, 1.0, title, ha="center", va="bottom", fontsize=9)
    axes.set(ylim=(0, 1), ylabel=f"{name} AP")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    return _png(figure)
