"""Videos in and out, through PyAV."""

import sys
from dataclasses import replace

import numpy as np
import orjson
import pytest

from mrcnn.commands import main as command
from mrcnn.inference import video
from mrcnn.inference.folder import OutputError, OutputLost
from mrcnn.inference.names import LOCK, NOTES
from mrcnn.inference.writers import Outputs
from tests.helpers.detectors import HalfDetector, files

av = pytest.importorskip("av", reason="needs PyAV (pip install av)")


class Streaming(HalfDetector):
    """`HalfDetector` with the `stream` that videos use."""

    def stream(self, images):
        for image in images:
            yield self.to_result(image, image[0, 0].tolist())


def write_video(path, frames, rate=10, size=(320, 240)):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = (*size, "yuv420p")
        for i in range(frames):
            image = np.full((size[1], size[0], 3), 40 + 5 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())


def read_video(path):
    with av.open(str(path)) as container:
        assert not container.streams.audio
        stream = container.streams.video[0]
        return float(stream.average_rate), [
            f.to_ndarray(format="rgb24") for f in container.decode(stream)
        ]


def test_a_video(tmp_path, capsys):
    write_video(tmp_path / "clip.mp4", 12)
    out = tmp_path / "out"
    assert video.run_video(Streaming(), tmp_path / "clip.mp4", out, Outputs()) == 12
    assert files(out) == ["clip.mp4.json", "clip.mp4.mp4", LOCK, NOTES]
    rate, frames = read_video(out / "clip.mp4.mp4")
    assert rate == 10 and len(frames) == 12 and frames[0].shape == (240, 320, 3)
    # Trousers on the left are tinted, the upper right is as it was.
    assert abs(frames[5][20, 300].astype(int) - 65).max() < 12
    assert abs(frames[5][150, 80].astype(int) - 65).max() > 12
    rows = orjson.loads((out / "clip.mp4.json").read_bytes())
    assert [r["image_id"] for r in rows] == [i for i in range(1, 13) for _ in "ab"]
    assert rows[0]["category_id"] == 8 and rows[0]["segmentation"]["size"] == [240, 320]
    assert "12 frames processed; results are in" in capsys.readouterr().out


def test_files_of_others_are_not_replaced(tmp_path):
    write_video(tmp_path / "clip.mp4", 2)
    out, detector = tmp_path / "out", Streaming()
    for _ in range(2):  # ours are
        assert video.run_video(detector, tmp_path / "clip.mp4", out, Outputs(), False) == 2
    (out / "clip.mp4.json").write_bytes(b"edited")
    with pytest.raises(OutputError, match="clip.mp4.json in the output folder has been changed"):
        video.run_video(detector, tmp_path / "clip.mp4", out, Outputs(), False)
    assert (out / "clip.mp4.json").read_bytes() == b"edited"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "clip.mp4.mp4").write_bytes(b"theirs")
    with pytest.raises(OutputError, match="clip.mp4.mp4 in the output folder was not written"):
        video.run_video(detector, tmp_path / "clip.mp4", tmp_path / "other", Outputs(), False)
    assert files(tmp_path / "other") == ["clip.mp4.mp4"]


def test_a_video_over_its_own_source_is_refused(tmp_path):
    write_video(tmp_path / "clip.mp4", 2)
    before = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip").symlink_to("clip.mp4")
    with pytest.raises(OutputError, match="clip.mp4 in the output folder was not written"):
        video.run_video(Streaming(), tmp_path / "clip", tmp_path, Outputs(), False)
    assert (tmp_path / "clip.mp4").read_bytes() == before


def test_names_that_give_no_table_of_images_and_fit(tmp_path):
    for name in ("results", "x" * 240 + ".mkv"):
        write_video(tmp_path / "clip.mp4", 1)
        (tmp_path / "clip.mp4").rename(tmp_path / name)
        assert video.run_video(Streaming(), tmp_path / name, tmp_path / "o", Outputs(), False) == 1
    written = files(tmp_path / "o")
    assert {"results~.json", "results~.mp4"} < set(written) and "results.json" not in written


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    write_video(tmp_path / "clip.mp4", 2)
    monkeypatch.setattr(video, "draw_result", full)
    with pytest.raises(OutputLost, match="No space left on device; make room"):
        video.run_video(Streaming(), tmp_path / "clip.mp4", tmp_path / "out", Outputs(), False)
    assert not (tmp_path / "out").exists()


def test_odd_sides_lose_a_pixel(tmp_path):
    class Odd(Streaming):
        def to_result(self, image, color):
            return replace(super().to_result(np.ascontiguousarray(image[:239, :319]), color))

    write_video(tmp_path / "clip.mp4", 2)
    video.run_video(Odd(), tmp_path / "clip.mp4", tmp_path / "out", Outputs(("overlay",)), False)
    assert read_video(tmp_path / "out" / "clip.mp4.mp4")[1][0].shape == (238, 318, 3)


def test_what_is_no_video(tmp_path):
    def run(source, outputs=None):
        return video.run_video(Streaming(), source, tmp_path / "out", outputs or Outputs(), False)

    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(ValueError, match=r"can't open video .*text.mp4"):
        run(tmp_path / "text.mp4")
    with pytest.raises(ValueError, match="there is no video 'nowhere.mp4'"):
        run("nowhere.mp4")
    with pytest.raises(ValueError, match="can't open video '99'"):
        run("99")
    with pytest.raises(ValueError, match="overlay and json only"):
        run(tmp_path / "text.mp4", Outputs(("html",)))
    assert not (tmp_path / "out").exists()


def test_a_damaged_video_gives_what_it_holds_or_a_reason(tmp_path):
    write_video(tmp_path / "clip.mkv", 30)
    whole = (tmp_path / "clip.mkv").read_bytes()
    (tmp_path / "clip.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    count = video.run_video(Streaming(), tmp_path / "clip.mkv", tmp_path / "out", Outputs(), False)
    assert 0 < count < 30 and len(read_video(tmp_path / "out" / "clip.mkv.mp4")[1]) == count


def test_without_pyav_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        video.load_av()


@pytest.mark.parametrize(
    "unfit",
    [
        *(["--resume"], ["--strict"], ["--recursive"], ["--input", "x"], ["--pad", "3"]),
        *(["--save", "overlay,masks"], ["--save", "csv"], ["--overlay_format", "jpg"]),
    ],
)
def test_options_for_images_are_refused(unfit, capsys):
    assert command.main(["inference", "--video", "0", *unfit]) == 2
    assert "--video doesn't go with --" in capsys.readouterr().err


def test_a_missing_video_is_told_before_anything_is_loaded(capsys):
    assert command.main(["inference", "--video", "none.mp4"]) == 2
    assert "there is no video 'none.mp4'" in capsys.readouterr().err


def test_more_pixels_than_can_be_decoded_are_refused(capsys):
    assert command.main(["inference", "--max_pixels", "178956971"]) == 2
    assert "178,956,970 at most" in capsys.readouterr().err
