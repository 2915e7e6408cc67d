"""`model.py inference`: detect garments in images or a video."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mrcnn.commands.arguments import UsageError
from mrcnn.commands.shared import ModelOptions, load_predictor
from mrcnn.core.memory import share_heap
from mrcnn.core.options import changed, option, positive, subset, words
from mrcnn.core.reading import MAX_PIXELS
from mrcnn.inference.writers import DEFAULT, FORMATS, KINDS, Outputs

if TYPE_CHECKING:
    from mrcnn.predictor import Predictor

_input = functools.partial(option, group="input")
_model = functools.partial(option, group="model")
_detections = functools.partial(option, group="detections")
_output = functools.partial(option, group="output")


@dataclass(frozen=True)
class ImageOptions:
    """What does nothing for a video."""

    input_folder: str = _input(
        "input_folder",
        "a folder, an image, a pattern in quotes, or a .txt file with one path a line",
        "--input",
        metavar="PATH",
    )
    recursive: bool = _input(False, "include sub-folders")
    max_pixels: int | None = _input(
        None,
        f"refuse images with more pixels; if not given, {MAX_PIXELS}, the most that Pillow decodes",
        type=positive,
    )
    overlay_format: str = _output("png", "file format of the overlays", choices=FORMATS)
    pad: int = _output(0, "margin around each cut-out in pixels")
    resume: bool = _output(False, "skip images that have complete results of the same settings")
    strict: bool = _output(False, "stop at the first image that fails")


@dataclass(frozen=True)
class DetectorOptions(ModelOptions):
    """The keywords of `Predictor.load`, where `weights` is `path`."""

    device: str | None = _model(None, "cpu, gpu:0, ...; if not given, TensorFlow chooses")
    batch_size: int | None = _model(
        None,
        "images that the network processes at once; if not given, 1 on a CPU, and on a GPU 4 for "
        "input sizes up to 640, else 1",
        type=positive,
    )
    min_score: float | None = _detections(
        None, "lowest score of a detection, 0 to 1; if not given, as in the weights file"
    )
    max_detections: int | None = _detections(
        None, "highest number of detections in an image, best first", type=positive
    )
    classes: tuple[str, ...] | None = _detections(
        None,
        "keep only these classes, for example trousers,skirt",
        type=words,
        metavar="NAMES",
    )
    agnostic_nms: bool = _detections(
        False, "keep only the best of overlapping detections, whatever their classes"
    )
    exclusive_masks: bool = _detections(False, "give each pixel to one garment at most")


@dataclass(frozen=True)
class InferenceOptions(DetectorOptions, ImageOptions):
    video: str | None = _input(
        None, "process a video file instead, or a webcam (0)", metavar="PATH"
    )
    output_folder: Path = option(
        Path("output_folder"), "folder for the results; made if missing", group="output"
    )
    save: tuple[str, ...] = _output(
        DEFAULT, f"what to write: some of {','.join(KINDS)}", type=words, metavar="KINDS"
    )
    legend: bool = _output(False, "draw a legend with the classes")


def run_inference(options: InferenceOptions) -> int:
    """Detects garments in images or a video; returns the exit status."""
    from mrcnn.inference.folder import OutputFolder
    from mrcnn.inference.listing import list_inputs
    from mrcnn.inference.names import table_files
    from mrcnn.inference.pipeline import run_images

    # Mistakes are found before TensorFlow is loaded, which takes seconds.
    outputs = Outputs(**subset(options, Outputs))
    max_pixels = options.max_pixels or MAX_PIXELS
    if max_pixels > MAX_PIXELS:
        raise UsageError(f"--max_pixels {max_pixels}: Pillow decodes {MAX_PIXELS:,} at most")
    if options.video is not None:
        return _run_video(options, outputs)
    listing = list_inputs(options.input_folder, options.output_folder, options.recursive)
    with OutputFolder(options.output_folder) as folder:
        folder.require(table_files(outputs.save))
        summary = run_images(
            _load_predictor(options, one_by_one=len(listing.images) < 4),
            listing,
            folder,
            outputs,
            resume=options.resume,
            strict=options.strict,
            max_pixels=max_pixels,
        )
    if summary.stopped == "interrupted":
        return 130
    return 3 if summary.failures else 0


def _run_video(options: InferenceOptions, outputs: Outputs) -> int:
    from mrcnn.inference.folder import OutputFolder
    from mrcnn.inference.video import load_av, run_video

    video = options.video or ""
    unfit = [f"--{name}" for name in changed(options, ImageOptions)]
    # The default of --save asks for nothing: a video gets the two kinds of it that it can have.
    if options.save != DEFAULT and not set(options.save) <= {"overlay", "json"}:
        unfit.insert(0, "--save masks, cutouts, csv or html")
    if unfit:
        raise UsageError(f"--video doesn't go with {', '.join(unfit)}; leave it out")
    if not video.isdigit() and not os.path.isfile(video):
        raise UsageError(f"there is no video {video!r}; pass a file or a webcam's number")
    load_av()
    with OutputFolder(options.output_folder) as folder:
        run_video(_load_predictor(options, one_by_one=True), video, folder, outputs)
    return 0


def _load_predictor(options: InferenceOptions, one_by_one: bool) -> "Predictor":
    """`one_by_one`: a larger batch would not fill up, or delay the frames of a video."""
    share_heap()
    settings = subset(options, DetectorOptions)
    if one_by_one:
        settings["batch_size"] = options.batch_size or 1
    return load_predictor(**settings)
