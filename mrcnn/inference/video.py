"""Videos and webcams: frames in, an overlay video and its results out, frame by frame.

PyAV does the decoding and encoding (pip install av); nothing else here needs it.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from mrcnn.core.text import printable
from mrcnn.inference.detector import StreamDetector
from mrcnn.inference.folder import OutputFolder
from mrcnn.inference.listing import Source, shortened
from mrcnn.inference.names import TABLES
from mrcnn.inference.tables import json_array
from mrcnn.inference.writers import Outputs, draw_result, label_result

# FFmpeg's name of each system's cameras, and the address of number N.
_CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}
CAMERA_RATE = 30  # frames a second, where a camera doesn't tell


def load_av() -> Any:
    """PyAV.

    Raises:
        ImportError: if it isn't installed, with what to do.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("--video needs the package PyAV; run pip install av") from error
    return av


def run_video(
    predictor: StreamDetector,
    source: Source,
    output_folder: Source | OutputFolder,
    outputs: Outputs,
    progress: bool = True,
) -> int:
    """Detects in each frame of a video or webcam, until its end or Ctrl-C.

    Into `output_folder`: <name>.mp4, the frames with their garments drawn in, without sound
    ("overlay" in outputs.save); <name>.json, COCO's results format with the number of the frame,
    from 1, as image_id ("json"). A webcam's are called camera<number>. As with images, a file that
    this program didn't write is not replaced.

    Args:
        source: a file or the number of a webcam.
        progress: whether to show a progress bar and print where the results lie.

    Returns:
        number of frames.

    Raises:
        ImportError: without PyAV.
        ValueError: if the source can't be read, holds no video, or nothing is to be saved.
        OutputError: as `pipeline.run_images`.
    """
    av = load_av()
    ids = getattr(predictor, "category_ids", None)
    if not {"overlay", "json"} & set(outputs.save):
        raise ValueError("a video gives overlay and json only; save one of them or both")
    frames = 0
    with ExitStack() as stack:
        container, given_name = _open(av, str(source))
        stack.enter_context(container)
        if not container.streams.video:
            raise ValueError(f"{source} holds no video; pass a video file or a webcam's number")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if not isinstance(output_folder, OutputFolder):
            output_folder = stack.enter_context(OutputFolder(output_folder))
        name = _name_of_results(given_name)
        endings = {"overlay": ".mp4", "json": ".json"}
        output_folder.require(name + endings[kind] for kind in endings if kind in outputs.save)
        add_frame = add_row = None
        if "overlay" in outputs.save:
            rate = Fraction(stream.average_rate or stream.guessed_rate or CAMERA_RATE)
            add_frame = stack.enter_context(_video_file(av, output_folder, f"{name}.mp4", rate))
        if "json" in outputs.save:
            add_row = stack.enter_context(json_array(output_folder, f"{name}.json"))
        bar = stack.enter_context(
            tqdm(total=stream.frames or None, unit="frame", disable=not progress)
        )
        try:
            for result in predictor.stream(_frames(av, container, stream)):
                frames += 1
                if add_frame:
                    drawn = draw_result(result)
                    label_result(drawn, result, outputs.legend)
                    add_frame(drawn)
                if add_row:
                    for row in result.to_coco(frames, ids):
                        add_row(row)
                bar.update()
        except KeyboardInterrupt:
            pass  # the way to end a webcam; what was recorded is kept
        if not frames:
            raise ValueError(f"{source} gave no frame; pass a valid video file")
    if progress:
        place = printable(output_folder.path / name)
        print(f"{frames} frames processed; results are in {place}.*")
    return frames


def _name_of_results(name: str) -> str:
    """A video's name, unless that is too long or would give a table of a run over images."""
    name = shortened(name)
    return f"{name}~" if f"{name}.json" in TABLES else name


def _open(av: Any, source: str) -> tuple[Any, str]:
    """The opened video and the name of its results."""
    try:
        if source.isdigit():
            kind, place = _CAMERAS.get(sys.platform, _CAMERAS["linux"])
            return av.open(place.format(source), format=kind), f"camera{source}"
        if not os.path.isfile(source):
            raise ValueError(f"there is no video {source!r}; pass a file or a webcam's number")
        return av.open(source), Path(source).name
    except (av.FFmpegError, OSError) as error:
        raise ValueError(
            f"can't open video {source!r}: {error}; pass a valid video file"
        ) from error


def _frames(av: Any, container: Any, stream: Any) -> Iterator[np.ndarray]:
    """Yields frames [H, W, 3] uint8, upright; stops where the video is damaged."""
    try:
        for frame in container.decode(stream):
            image = frame.to_ndarray(format="rgb24")
            turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
            yield image if not turns else np.ascontiguousarray(np.rot90(image, turns))
    except av.FFmpegError as error:
        print(f"the video is damaged from here on: {printable(error)}", file=sys.stderr)


@contextmanager
def _video_file(
    av: Any, folder: OutputFolder, name: str, rate: Fraction
) -> Iterator[Callable[[Image.Image], None]]:
    """Writes an H.264 video of the first frame's size; it appears once it is complete.

    Yields:
        the function that adds a frame.
    """
    with (
        folder.replacing(name) as temporary,
        av.open(str(temporary), "w", format="mp4") as container,
    ):
        stream = None

        def add(image: Image.Image) -> None:
            nonlocal stream
            # Players want even sides: an odd last row or column is left out.
            if stream is None:
                stream = container.add_stream("libx264", rate=rate)
                stream.width, stream.height = (side - side % 2 for side in image.size)
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_image(image.crop((0, 0, stream.width, stream.height)))
            container.mux(stream.encode(frame))

        yield add
        if stream is not None:
            container.mux(stream.encode())
