"""Videos and webcams: frames in, an overlay video and its results out, one frame after the other.

PyAV does the decoding and encoding (pip install av); nothing else here needs it.
"""

import os
import sys
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mrcnn.core.files import replacing
from mrcnn.inference.tables import JsonArray
from mrcnn.render.drawing import draw_labels, draw_shapes

# What FFmpeg calls the cameras of each system, and where number N is.
_CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}
CAMERA_RATE = 30  # frames a second, where a camera doesn't tell


def load_av():
    """PyAV.

    Raises:
        ImportError: if it isn't installed, with what to do.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("--video needs the package PyAV; run pip install av") from error
    return av


def run_video(predictor, source, output_folder, outputs, progress=True):
    """Detects in each frame of a video or webcam, until its end or Ctrl-C.

    Into `output_folder`: <name>.mp4, the frames with their garments drawn in, without sound
    ("overlay" in outputs.save); <name>.json, COCO's results form with the number of the frame,
    from 1, as image_id ("json"). A webcam's are called camera<number>.

    Args:
        predictor: see `mrcnn.inference.pipeline`.
        source: str, a file or the number of a webcam.
        output_folder: str or PathLike.
        outputs: `writers.Outputs`.
        progress: whether to show a progress bar and print where the results lie.

    Returns:
        number of frames.

    Raises:
        ImportError: without PyAV.
        ValueError: if the source can't be read, holds no video, or nothing is to be saved.
    """
    av, folder = load_av(), Path(output_folder)
    if not {"overlay", "json"} & set(outputs.save):
        raise ValueError("a video gives overlay and json only; save one of them or both")
    with ExitStack() as stack:
        container, name = _open(av, str(source))
        stack.enter_context(container)
        if not container.streams.video:
            raise ValueError(f"{source} holds no video; pass a video file or a webcam's number")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = stream.average_rate or stream.guessed_rate or Fraction(CAMERA_RATE)
        folder.mkdir(parents=True, exist_ok=True)
        writer = rows = None
        if "overlay" in outputs.save:
            path = folder / f"{name}.mp4"
            if path.exists() and os.path.exists(source) and path.samefile(source):
                raise ValueError(
                    f"the overlay would replace {source}; choose another output folder"
                )
            writer = stack.enter_context(_Writer(av, path, Fraction(rate)))
        if "json" in outputs.save:
            rows = stack.enter_context(JsonArray(folder / f"{name}.json", b"[", b"]"))
        bar = tqdm(total=stream.frames or None, unit="frame", disable=not progress)
        frames = 0
        try:
            for result in predictor.stream(_frames(container, stream)):
                frames += 1
                if writer:
                    drawn = draw_shapes(result)
                    draw_labels(drawn, result, outputs.legend)
                    writer.add(drawn)
                if rows:
                    for row in result.to_coco(frames):
                        rows.add(row)
                bar.update()
        except KeyboardInterrupt:
            pass  # the way to end a webcam; what was recorded is kept
        finally:
            bar.close()
        if not frames:
            raise ValueError(f"{source} gave no frame; pass a sound video file")
    if progress:
        print(f"{frames} frames processed; results are in {folder / name}.*")
    return frames


def _open(av, source):
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
            f"can't open video {source!r}: {error}; pass a sound video file"
        ) from error


def _frames(container, stream):
    """Yields frames [H, W, 3] uint8, upright; a damaged end is the end."""
    av = load_av()
    try:
        for frame in container.decode(stream):
            image = frame.to_ndarray(format="rgb24")
            turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
            yield image if not turns else np.ascontiguousarray(np.rot90(image, turns))
    except av.FFmpegError as error:
        print(f"the video breaks off: {error}", file=sys.stderr)


class _Writer:
    """An H.264 video that takes its name when it is complete; its size is the first frame's."""

    def __init__(self, av, path, rate):
        self._av, self._path, self._rate = av, path, rate
        self._stream = None

    def __enter__(self):
        self._stack = ExitStack()
        temporary = self._stack.enter_context(replacing(self._path))
        self._container = self._stack.enter_context(
            self._av.open(str(temporary), "w", format="mp4")
        )
        return self

    def add(self, picture):
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._rate)
            # Players want even sides: an odd last row or column is left out.
            self._stream.width, self._stream.height = (side - side % 2 for side in picture.size)
            self._stream.pix_fmt = "yuv420p"
        size = (self._stream.width, self._stream.height)
        picture = picture.crop((0, 0, *size))
        for packet in self._stream.encode(self._av.VideoFrame.from_image(picture)):
            self._container.mux(packet)

    def __exit__(self, *error):
        if self._stream is not None and error[0] is None:
            for packet in self._stream.encode():
                self._container.mux(packet)
        return self._stack.__exit__(*error)
