"""An evaluation for its readers: the terminal, a spreadsheet, and one page with images."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from mrcnn.core.files import prepare_folder, write_atomically
from mrcnn.core.text import csv_lines, cut, printable
from mrcnn.evaluation.matches_file import MATCHES_FILE, save_matches
from mrcnn.evaluation.metrics import (
    FILE,
    KIND_NAMES,
    Metrics,
    encode,
    scores,
    shown_classes,
    subset_rows,
)
from mrcnn.evaluation.scoring import EvaluationResult
from mrcnn.render.html import png_uri, render
from mrcnn.reports.images import ReportImages
from mrcnn.reports.plots import PLOTS, draw_plots

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
PAGE = "report.html"
LONGEST = 40  # characters of a class name in the terminal
# How the metrics.json of a report begins.
_START = b'{\n  "format": 1,\n  "run": {'


def number(value: float | None, digits: int = 3) -> str:
    """'0.317', or 'n/a' for None; a score of another tool may be of any size."""
    if value is None:
        return "n/a"
    return f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.{digits}g}"


def prepare_report(folder: Path, results: str | Path | None = None) -> None:
    """Makes the folder of a report; errors as of `core.files.prepare_folder`.

    Args:
        results: as of `write_report`.
    """
    names = [PAGE, FILE, MATCHES_FILE, "metrics.csv", *(f"{plot}.png" for plot in PLOTS)]
    if results is None or Path(results).resolve() != (folder / "results.json").resolve():
        names.append("results.json")
    prepare_folder(folder, names, FILE, _START)


def write_report(
    folder: str | Path,
    evaluation: EvaluationResult,
    results: str | Path | None = None,
    images: Path | None = None,
) -> Path:
    """Writes metrics.json, metrics.csv, matches.npz, the plots, report.html and results.json.

    Args:
        folder: made if need be. Files of its names are replaced; `prepare_report` makes sure that
            they are of an earlier report.
        results: path of the results file, to keep as results.json; None keeps none.
        images: folder of the images; None draws on grey.

    Returns:
        Path of the page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = evaluation.metrics
    metrics.run.written = datetime.now().isoformat(timespec="seconds")
    plots = draw_plots(evaluation)
    page = render_page(evaluation, plots, images)
    kept = folder / "results.json"
    if results is not None and Path(results).resolve() != kept.resolve():
        write_atomically(kept, Path(results).read_bytes())
    save_matches(folder / MATCHES_FILE, evaluation.truth.image_ids, evaluation.matches)
    for name in PLOTS:
        if name in plots:
            write_atomically(folder / f"{name}.png", plots[name])
        else:  # of an earlier report
            (folder / f"{name}.png").unlink(missing_ok=True)
    write_atomically(folder / "metrics.csv", as_csv(metrics))
    write_atomically(folder / PAGE, page.encode())
    # Last: where it is, all the others are.
    write_atomically(folder / FILE, encode(metrics))
    return folder / PAGE


def render_page(evaluation: EvaluationResult, plots: dict[str, bytes], folder: Path | None) -> str:
    """The page as text; `folder` is that of the images."""
    metrics = evaluation.metrics
    images = ReportImages(evaluation, folder)
    examples = images.confused(metrics.confusion.pairs)
    worst, best = images.rated(metrics.images.worst), images.rated(metrics.images.best)
    page: str = render(
        "report.html.j2",
        metrics=metrics,
        main=KIND_NAMES[evaluation.kind],
        numbers=NUMBERS,
        number=number,
        subsets=subset_rows(metrics),
        plots={name: png_uri(data) for name, data in plots.items()},
        examples=examples,
        anchors={pair.anchor for pair in examples},
        worst=worst,
        best=best,
        missing=images.missing,
        columns=[*shown_classes(metrics), len(metrics.confusion.classes) - 1],
    )
    return page


def as_csv(metrics: Metrics) -> bytes:
    """metrics.csv: a row for each AP and AR of boxes and masks; empty cells for no value."""
    rows: list[tuple[Any, ...]] = [("kind", "group", "name", "value", "low", "high", "garments")]
    for kind, section in metrics.sections.items():
        for key, value, interval, garments in scores(section):
            *_, group, name = ("all", *key)
            group = "class" if group == "per_class" else group
            low, high = interval or (None, None)
            rows.append((kind, group, name, value, low, high, garments))
    return csv_lines(rows)


def as_text(metrics: Metrics) -> str:
    """The tables that the command prints."""
    blocks = [_numbers(metrics), _classes(metrics)]
    if metrics.box.subsets:
        blocks.append(_subsets(metrics))
    blocks += [_confusion(metrics), _others(metrics)]
    if metrics.compare:
        blocks.append(_compared(metrics))
    return "\n\n".join("\n".join(block) for block in blocks)


def _numbers(metrics: Metrics) -> Iterator[str]:
    for kind, section in metrics.sections.items():
        yield f"{kind:5}" + "  ".join(f"{k} {number(getattr(section, k))}" for k in NUMBERS)
        if interval := section.intervals.get("AP"):
            yield f"     95 % interval of AP: {number(interval[0])} to {number(interval[1])}"
    if metrics.mask is None:
        yield "mask n/a: the results or the annotations have no masks"


def _classes(metrics: Metrics) -> Iterator[str]:
    """AP by class; F1 is that of masks, or of boxes where there are no masks."""
    yield f"{'class':24}{'garments':>9}{'box AP':>9}{'mask AP':>9}{'best F1':>9}{'at score':>10}"
    for name, box in metrics.box.per_class.items():
        mask = metrics.mask.per_class[name] if metrics.mask else None
        best = (mask or box).best_f1
        f1, threshold = (best.f1, best.threshold) if best else (None, None)
        yield (
            f"{cut(name, LONGEST):24}{box.garments:>9}{number(box.AP):>9}{number(mask.AP if mask else None):>9}"
            f"{number(f1):>9}{number(threshold):>10}"
        )


def _subsets(metrics: Metrics) -> Iterator[str]:
    head = f"{'subset':24}{'garments':>9}{'box AP':>9}{'mask AP':>9}"
    yield head + (f"{'published box':>15}{'mask':>7}" if metrics.published else "")
    for row in subset_rows(metrics):
        line = f"{row.attribute:12}{row.value:12}{row.garments:>9}"
        for kind in ("box", "mask"):
            line += f"{number(row.entries[kind].AP if kind in row.entries else None):>9}"
        if row.published:
            line += f"{number(row.published['box']):>15}{number(row.published['mask']):>7}"
        yield line
    if metrics.published:
        yield "(published: Mask R-CNN on the released part of DeepFashion2)"


def _confusion(metrics: Metrics) -> Iterator[str]:
    found = metrics.confusion
    yield (
        f"Confused classes ({found.by} IoU of at least {found.iou}, score of at least "
        f"{number(found.min_score)}):"
    )
    for row in found.pairs:
        rate = "n/a" if row.rate is None else f"{100 * row.rate:.1f} %"
        a, b = cut(row.a, LONGEST), cut(row.b, LONGEST)
        swapped = f"{a} as {b}: {row.a_as_b}, reversed: {row.b_as_a}"
        yield f"  {row.count:>5}  {rate:>6}  {swapped}"
    missed, false_positives = sum(row[-1] for row in found.counts), sum(found.counts[-1])
    yield f"  missed: {missed}, false positives: {false_positives}"


def _others(metrics: Metrics) -> Iterator[str]:
    main = metrics.mask or metrics.box
    if best := main.operating_point:
        yield (
            f"Best F1 {number(best.f1)} at score {number(best.threshold)}: precision "
            f"{number(best.precision)}, recall {number(best.recall)}"
        )
    ece = main.calibration.ece if main.calibration else None
    yield f"Calibration error {number(ece)} (0: detections that score 0.8 are right in 8 of 10 cases)"
    if edge := metrics.boundary:
        yield (
            f"Matched masks: IoU {number(edge.mask_iou)}, boundary IoU {number(edge.boundary_iou)}"
        )


def _compared(metrics: Metrics) -> Iterator[str]:
    """The differences of the main numbers, and the others that are clear."""
    if metrics.compare is None:
        return
    yield f"Compared with {printable(metrics.compare.path)} (* where the 95 % interval leaves out 0):"
    for kind, rows in metrics.compare.sections.items():
        for key, row in rows.items():
            if row.difference is None or not (key in NUMBERS or row.clear):
                continue
            low_high = f"  [{row.interval[0]:+.3f}, {row.interval[1]:+.3f}]" if row.interval else ""
            yield (
                f"  {kind:5}{cut(key, LONGEST + 10):34}{number(row.other)} -> {number(row.this)}  "
                f"{row.difference:+.3f}{low_high}{' *' if row.clear else ''}"
            )
