"""`model.py inference`: detect garments in images or a video."""

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

# What does nothing for a video, besides most of --save.
IMAGES_ONLY = (
    "input_folder",
    "recursive",
    "max_pixels",
    "overlay_format",
    "pad",
    "resume",
    "strict",
)


@dataclass(frozen=True)
class InputOptions:
    input_folder: str = option(
        "input_folder",
        "a folder, an image, a pattern in quotes, or a .txt file with one path a line",
        "--input",
        group="input",
        metavar="PATH",
    )
    recursive: bool = option(False, "include sub-folders", group="input")
    video: str | None = option(
        None, "process a video file instead, or a webcam (0)", group="input", metavar="PATH"
    )
    max_pixels: int | None = option(
        None,
        f"skip images with more pixels than this, at most {MAX_PIXELS}, which is also the limit "
        "if not given",
        group="input",
        type=positive,
    )


@dataclass(frozen=True)
class DetectorOptions(ModelOptions):
    """The keywords of `Predictor.load`, where `weights` is `path`."""

    device: str | None = option(
        None, "cpu, gpu:0, ...; if not given, TensorFlow chooses", group="model"
    )
    batch_size: int | None = option(
        None,
        "images that the network processes at once; if not given, 1 on a CPU, and on a GPU 4 for "
        "input sizes up to 640, else 1",
        group="model",
        type=positive,
    )
    min_score: float | None = option(
        None,
        "lowest score of a detection, 0 to 1; if not given, as in the weights file",
        group="detections",
    )
    max_detections: int | None = option(
        None,
        "highest number of detections in an image, best first",
        group="detections",
        type=positive,
    )
    classes: tuple[str, ...] | None = option(
        None,
        "keep only these classes, for example trousers,skirt",
        group="detections",
        type=words,
        metavar="NAMES",
    )
    agnostic_nms: bool = option(
        False, "keep one detection, the best, where classes overlap", group="detections"
    )
    exclusive_masks: bool = option(
        False, "give each pixel to one garment at most", group="detections"
    )


@dataclass(frozen=True)
class InferenceOptions(DetectorOptions, InputOptions):
    output_folder: Path = option(
        Path("output_folder"), "folder for the results; made if missing", group="output"
    )
    save: tuple[str, ...] = option(
        DEFAULT,
        f"what to write: some of {','.join(KINDS)}",
        group="output",
        type=words,
        metavar="KINDS",
    )
    overlay_format: str = option(
        "png", "file format of the overlays", group="output", choices=FORMATS
    )
    legend: bool = option(False, "draw a legend with the classes", group="output")
    pad: int = option(0, "margin around each cut-out in pixels", group="output")
    resume: bool = option(
        False, "skip images that have complete results of the same settings", group="output"
    )
    strict: bool = option(False, "stop at the first image that fails", group="output")


def run_inference(options: InferenceOptions) -> int:
    """Detects garments in images or a video; returns the exit status."""
    from mrcnn.inference.pipeline import list_inputs, run_pictures

    # Mistakes are found before TensorFlow is loaded, which takes seconds.
    outputs = Outputs(**subset(options, Outputs))
    max_pixels = options.max_pixels or MAX_PIXELS
    if max_pixels > MAX_PIXELS:
        raise UsageError(f"--max_pixels {max_pixels}: Pillow decodes {MAX_PIXELS:,} at most")
    if options.video is not None:
        return _run_video(options, outputs)
    listing = list_inputs(options.input_folder, options.output_folder, options.recursive)
    summary = run_pictures(
        _load_predictor(options, one_by_one=len(listing.pictures) < 4),
        options.input_folder,
        options.output_folder,
        outputs,
        recursive=options.recursive,
        resume=options.resume,
        strict=options.strict,
        max_pixels=max_pixels,
    )
    if summary.stopped == "interrupted":
        return 130
    return 3 if summary.failures else 0


def _run_video(options: InferenceOptions, outputs: Outputs) -> int:
    from mrcnn.inference.video import load_av, run_video

    video = options.video or ""
    unfit = [f"--{name}" for name in changed(options, IMAGES_ONLY)]
    # The default of --save asks for nothing: a video gets the two kinds of it that it can have.
    if options.save != DEFAULT and not set(options.save) <= {"overlay", "json"}:
        unfit.insert(0, "--save masks, cutouts, csv or html")
    if unfit:
        raise UsageError(f"--video doesn't go with {', '.join(unfit)}; leave it out")
    if video.strip() and not video.isdigit() and not Path(video).is_file():
        raise UsageError(f"there is no video {video!r}; pass a file or a webcam's number")
    load_av()
    run_video(_load_predictor(options, one_by_one=True), video, options.output_folder, outputs)
    return 0


def _load_predictor(options: InferenceOptions, one_by_one: bool) -> "Predictor":
    """`one_by_one`: a larger batch would not fill up, or delay the frames of a video."""
    share_heap()
    settings = subset(options, DetectorOptions)
    if one_by_one:
        settings["batch_size"] = options.batch_size or 1
    return load_predictor(**settings)
