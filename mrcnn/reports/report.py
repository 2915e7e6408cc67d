"""An evaluation for its readers: the terminal, a spreadsheet, and one page with images."""

import csv
import io
from datetime import datetime
from pathlib import Path

import orjson

from mrcnn.core.files import write_atomically
from mrcnn.evaluation import metrics as metrics_module
from mrcnn.evaluation.bootstrap import save_matches
from mrcnn.evaluation.metrics import KIND_NAMES, flat, subset_rows
from mrcnn.render.html import png_uri, render
from mrcnn.reports.pictures import Artist, draw_examples, draw_pictures
from mrcnn.reports.plots import PLOTS, draw_plots

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
PAGE = "report.html"


def number(value, digits=3):
    """'0.317', or 'n/a' for None."""
    return "n/a" if value is None else f"{value:.{digits}f}"


def write_report(folder, evaluation, results=None, pictures=None):
    """Writes metrics.json, metrics.csv, matches.npz, the plots, report.html and results.json.

    Args:
        folder: Path, made if need be. Files of an earlier report there are replaced.
        evaluation: `metrics.Evaluation`.
        results: path of the results file, to keep as results.json; None keeps none.
        images: Path of the folder of images; None draws on grey.

    Returns:
        Path of the page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    evaluation.metrics["run"]["written"] = datetime.now().isoformat(timespec="seconds")
    plots = draw_plots(evaluation)
    artist = Artist(evaluation, pictures)
    page = render_page(evaluation, plots, artist)
    kept = folder / "results.json"
    if results is not None and Path(results).resolve() != kept.resolve():
        write_atomically(kept, Path(results).read_bytes())
    save_matches(
        folder / metrics_module.MATCHES_FILE, evaluation.truth.image_ids, evaluation.matches
    )
    for name in PLOTS:
        if name not in plots:  # of an earlier report
            (folder / f"{name}.png").unlink(missing_ok=True)
    for name, data in plots.items():
        write_atomically(folder / f"{name}.png", data)
    write_atomically(folder / "metrics.csv", as_csv(evaluation.metrics).encode())
    write_atomically(folder / PAGE, page.encode())
    # Last: who finds it finds all the others as well.
    content = orjson.dumps(evaluation.metrics, option=orjson.OPT_INDENT_2)
    write_atomically(folder / metrics_module.FILE, content + b"\n")
    return folder / PAGE


def render_page(evaluation, plots, artist):
    """The page as text."""
    metrics = evaluation.metrics
    examples = draw_examples(artist, metrics["confusion"]["pairs"])
    worst = draw_pictures(artist, metrics["pictures"]["worst"])
    best = draw_pictures(artist, metrics["pictures"]["best"])
    return render(
        "report.html.j2",
        metrics=metrics,
        sections=[(name, metrics[name]) for name in ("box", "mask") if metrics[name]],
        main=KIND_NAMES[evaluation.kind],
        numbers=NUMBERS,
        number=number,
        subsets=subset_rows(metrics),
        plots={name: png_uri(data) for name, data in plots.items()},
        examples=examples,
        anchors={pair["anchor"] for pair in examples},
        worst=worst,
        best=best,
        missing=artist.missing,
    )


def as_csv(metrics):
    """metrics.csv: one row for each AP and AR, of box and mask: kind, group, name, value, ...

    Returns:
        text with the columns kind, group, name, value, low, high, garments; an empty cell
        where there is no value.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("kind", "group", "name", "value", "low", "high", "garments"))
    for kind in ("box", "mask"):
        section = metrics[kind]
        for key, value in flat(section).items() if section else ():
            if len(key) == 1:
                group, name, entry = "all", key[0], {"interval": section["intervals"].get(key[0])}
            elif key[0] == "per_class":
                group, name, entry = "class", key[1], section["per_class"][key[1]]
            else:
                group, name, entry = key[1], key[2], section["subsets"][key[1]][key[2]]
            low, high = entry["interval"] or (None, None)
            writer.writerow((kind, group, name, value, low, high, entry.get("garments")))
    return text.getvalue()


def as_text(metrics):
    """The tables that the command prints."""
    blocks = [_numbers(metrics), _classes(metrics)]
    if metrics["box"]["subsets"]:
        blocks.append(_subsets(metrics))
    blocks += [_confusions(metrics), _others(metrics)]
    if metrics["compare"]:
        blocks.append(_compared(metrics["compare"]))
    return "\n\n".join(blocks)


def _numbers(metrics):
    lines = []
    for kind in ("box", "mask"):
        section = metrics[kind]
        if section is None:
            lines.append(f"{kind:5}n/a: the results or the annotations have no masks")
            continue
        lines.append(f"{kind:5}" + "  ".join(f"{k} {number(section[k])}" for k in NUMBERS))
        between = section["intervals"].get("AP")
        if between:
            lines.append(
                f"     AP's 95 % interval over images: {number(between[0])} to {number(between[1])}"
            )
    return "\n".join(lines)


def _classes(metrics):
    """AP by class; F1 is that of masks, or of boxes where there are no masks."""
    box, mask = metrics["box"]["per_class"], (metrics["mask"] or {}).get("per_class")
    lines = [
        f"{'class':24}{'garments':>9}{'box AP':>9}{'mask AP':>9}{'best F1':>9}{'at score':>10}"
    ]
    for name, entry in box.items():
        best = (mask or box)[name]["best_f1"] or {"f1": None, "threshold": None}
        lines.append(
            f"{name:24}{entry['garments']:>9}{number(entry['AP']):>9}"
            f"{number(mask[name]['AP'] if mask else None):>9}{number(best['f1']):>9}"
            f"{number(best['threshold']):>10}"
        )
    return "\n".join(lines)


def _subsets(metrics):
    published = metrics["published"] is not None
    head = f"{'subset':24}{'garments':>9}{'box AP':>9}{'mask AP':>9}"
    lines = [head + (f"{'published box':>15}{'mask':>7}" if published else "")]
    for row in subset_rows(metrics):
        values = [row[k] and row[k]["AP"] for k in ("box", "mask")]
        line = f"{row['attribute']:12}{row['value']:12}{row['garments']:>9}"
        line += "".join(f"{number(v):>9}" for v in values)
        if published:
            line += f"{number(row['published_box']):>15}{number(row['published_mask']):>7}"
        lines.append(line)
    if published:
        lines.append("(published: Mask R-CNN on the released part of DeepFashion2)")
    return "\n".join(lines)


def _confusions(metrics):
    found = metrics["confusion"]
    lines = [
        f"Confused, of {found['by']} pairs at IoU {found['iou']} with scores from "
        f"{number(found['min_score'])}:"
    ]
    for row in found["pairs"]:
        rate = "n/a" if row["rate"] is None else f"{100 * row['rate']:.1f} %"
        lines.append(
            f"  {row['count']:>5}  {rate:>6}  {row['a']} as {row['b']} {row['a_as_b']}, "
            f"the other way {row['b_as_a']}"
        )
    counts = found["counts"]
    missed, invented = sum(row[-1] for row in counts), sum(counts[-1])
    return "\n".join([*lines, f"  {missed} missed, {invented} invented"])


def _others(metrics):
    main = metrics["mask"] or metrics["box"]
    lines = []
    best, found = main["operating_point"], main["calibration"]
    if best:
        lines.append(
            f"Best F1 {number(best['f1'])} at score {number(best['threshold'])}: precision "
            f"{number(best['precision'])}, recall {number(best['recall'])}"
        )
    ece = number(found and found["ece"])
    lines.append(f"Calibration error {ece} (0: a score of 0.8 means right 8 times in 10)")
    if metrics["boundary"]:
        edge = metrics["boundary"]
        lines.append(
            f"Matched masks: IoU {number(edge['mask_iou'])}, boundary IoU "
            f"{number(edge['boundary_iou'])}"
        )
    return "\n".join(lines)


def _compared(found):
    lines = [f"Against {found['path']} (* where the 95 % interval leaves out 0):"]
    for kind in ("box", "mask"):
        for key, row in (found[kind] or {}).items():
            if row["difference"] is None or (key not in NUMBERS and not row["clear"]):
                continue
            low, high = row["interval"] or (None, None)
            between = f"  [{low:+.3f}, {high:+.3f}]" if row["interval"] else ""
            lines.append(
                f"  {kind:5}{key:34}{number(row['other'])} -> {number(row['this'])}  "
                f"{row['difference']:+.3f}{between}{' *' if row['clear'] else ''}"
            )
    return "\n".join(lines)
