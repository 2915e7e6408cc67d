"""`model.py inference`."""

from pathlib import Path

from mrcnn.commands.environment import import_tensorflow
from mrcnn.commands.shared import UsageError, add_refine, add_sleeve_refine, positive, words
from mrcnn.core.memory import share_heap


def _add_inference(command):
    from mrcnn.inference.writers import DEFAULT, FORMATS

    group = command.add_argument_group("what is processed")
    group.add_argument(
        "--input_folder",
        "--input",
        default="input_folder",
        help="a folder, an image, a pattern in quotes, or a .txt file of paths",
    )
    group.add_argument("--recursive", action="store_true", help="take sub-folders too")
    group.add_argument("--video", metavar="PATH", help="a video file instead, or 0 for a webcam")
    group.add_argument(
        "--max_pixels",
        type=positive,
        help="refuse larger images; at most, and if not given, 178956970",
    )

    group = command.add_argument_group("what is found")
    group.add_argument(
        "--min_score",
        type=float,
        help="leave out detections below, 0 to 1; if not given, what the model was made for",
    )
    group.add_argument(
        "--max_detections", type=positive, help="keep the best so many of each image"
    )
    group.add_argument("--classes", type=words, help="keep these only, such as trousers,skirt")
    group.add_argument(
        "--agnostic_nms", action="store_true", help="one class for each garment, the best"
    )
    group.add_argument("--tta", action="store_true", help="look at the mirror image too (slower)")
    add_sleeve_refine(group)
    add_refine(group)
    group.add_argument(
        "--exclusive_masks", action="store_true", help="leave no pixel to two garments"
    )

    group = command.add_argument_group("what is written")
    group.add_argument(
        "--output_folder", type=Path, default=Path("output_folder"), help="made if need be"
    )
    group.add_argument(
        "--save",
        type=words,
        default=",".join(DEFAULT),
        help="some of overlay,json,csv,masks,cutouts,html",
    )
    group.add_argument("--overlay_format", choices=FORMATS, default="png", help="of the overlays")
    group.add_argument("--legend", action="store_true", help="name the classes in a corner")
    group.add_argument("--pad", type=int, default=0, help="pixels around each cut-out")
    group.add_argument(
        "--resume", action="store_true", help="keep complete results of unchanged images"
    )
    group.add_argument("--strict", action="store_true", help="stop at the first failure")

    group = command.add_argument_group("how it is computed")
    group.add_argument(
        "--batch_size",
        type=positive,
        help="images at once; if not given, 4 up to --size 640, else 1",
    )
    group.add_argument(
        "--size",
        type=int,
        help="side of the network's input, a multiple of 64; if not given, the model's",
    )
    group.add_argument("--device", help="cpu, gpu:0, ...; if not given, TensorFlow chooses")


def run_inference(args):
    """Finds garments in images or a video; returns the exit status."""
    from mrcnn.core.reading import MAX_PIXELS
    from mrcnn.inference.listing import list_inputs
    from mrcnn.inference.pipeline import run_images
    from mrcnn.inference.video import load_av, run_video
    from mrcnn.inference.writers import Outputs

    # What can be wrong without TensorFlow is found before its seconds have passed.
    outputs = Outputs(args.save, args.overlay_format, args.legend, args.pad)
    if (args.max_pixels or 0) > MAX_PIXELS:
        raise UsageError(f"--max_pixels {args.max_pixels}: Pillow decodes {MAX_PIXELS:,} at most")
    if args.video is not None:
        _check_video(args)
        load_av()
        args.batch_size = args.batch_size or 1  # each frame is shown as soon as it can be
    else:
        listing = list_inputs(args.input_folder, args.output_folder, args.recursive)
        if len(listing.images) < 4:
            args.batch_size = args.batch_size or 1  # a batch of four would not get full
    share_heap()
    predictor = load_predictor(args)
    if args.video is not None:
        run_video(predictor, args.video, args.output_folder, outputs)
        return 0
    summary = run_images(
        predictor,
        listing,
        args.output_folder,
        outputs,
        resume=args.resume,
        strict=args.strict,
        max_pixels=args.max_pixels or MAX_PIXELS,
    )
    if summary.stopped == "interrupted":
        return 130
    return 3 if summary.failures else 0  # 3: done, but for some images


def _check_video(args):
    """Refuses what is for images only."""
    from mrcnn.inference.writers import DEFAULT

    given = {
        # A video gives two of the default's kinds; the default itself asks for nothing.
        "--save masks, cutouts, csv or html": args.save != DEFAULT
        and not set(args.save) <= {"overlay", "json"},
        "--input_folder": args.input_folder != "input_folder",
        "--recursive": args.recursive,
        "--max_pixels": args.max_pixels is not None,
        "--overlay_format": args.overlay_format != "png",
        "--pad": args.pad,
        "--resume": args.resume,
        "--strict": args.strict,
    }
    if unfit := [name for name, is_given in given.items() if is_given]:
        raise UsageError(f"--video doesn't go with {', '.join(unfit)}; leave it out")
    if args.video.strip() and not args.video.isdigit() and not Path(args.video).is_file():
        raise UsageError(f"there is no video {args.video!r}; pass a file or a webcam's number")


def load_predictor(args):
    """The `Predictor` that the inference command's options ask for."""
    import_tensorflow()
    from mrcnn.predictor import Predictor

    predictor = Predictor.load(
        args.weights,
        size=args.size,
        precision=args.precision,
        min_score=args.min_score,
        max_detections=args.max_detections,
        device=args.device,
        batch_size=args.batch_size,
        classes=args.classes,
        tta=args.tta,
        agnostic_nms=args.agnostic_nms,
        exclusive_masks=args.exclusive_masks,
        refine=args.refine,
        sleeve_refine=args.sleeve_refine,
    )
    config = predictor.model.config
    print(f"Weights: {predictor.weights} ({config.BACKBONE}, {config.NUM_CLASSES - 1} classes)")
    return predictor
