"""`model.py inspect`: the images it draws, its page and what it prints."""

import json

import numpy as np
import pytest
from PIL import Image

from mrcnn.coco.statistics import read_completed, statistics
from mrcnn.render.drawing import color_for
from mrcnn.reports import inspection
from tests.helpers import ROOT
from tests.helpers.browser import needs_browser, open_page
from tests.helpers.coco_contents import content, garment, write, write_foreign
from tests.helpers.commands import run_command


@pytest.fixture
def coco(tmp_path):
    """Writes a COCO file and its images; returns the file's path."""
    return lambda coco_content=None, folder=tmp_path: write(folder, coco_content)


# --- The contact sheet ------------------------------------------------------------------------


@pytest.fixture
def many(coco, tmp_path):
    """40 images with a vest, one of them with a skirt too, one with shorts too."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(1, 41)]
    annotations = [garment(i, 5, (2, 2, 20, 20)) for i in range(1, 41)]
    annotations += [garment(17, 9, (5, 5, 9, 9)), garment(18, 7, (5, 5, 9, 9))]
    return read_completed(coco(content(annotations, images)))


def names_on(sheet, table):
    return [table.images[i].file_name for i, _ in sheet.tiles]


def test_rare_classes_appear(many, tmp_path):
    for seed in range(5):
        sheet = inspection.contact_sheet(many, tmp_path, 3, seed)
        assert {"17.png", "18.png"} < set(names_on(sheet, many))
        assert sheet.classes == {0, 1, 2} and not sheet.failed


def test_the_seed_chooses(many, tmp_path):
    sheets = [names_on(inspection.contact_sheet(many, tmp_path, 10, s), many) for s in (1, 1, 2)]
    assert sheets[0] == sheets[1] != sheets[2]
    assert len(set(sheets[0])) == 10


def test_more_than_there_are(many, tmp_path):
    sheet = inspection.contact_sheet(many, tmp_path, 100)
    assert sorted(names_on(sheet, many)) == sorted(f"{i}.png" for i in range(1, 41))


def test_what_is_drawn(coco, tmp_path):
    table = read_completed(coco(content([garment(1, 5, (20, 30, 30, 30))])))
    sheet = inspection.contact_sheet(table, tmp_path, 1)
    ((image, tile),) = sheet.tiles
    assert table.images[image].file_name == "b.png" and tile.shape == (80, 100, 3)
    assert tuple(tile[59, 40]) == color_for(1)  # the outline's lowest row
    assert tuple(tile[70, 80]) == (200,) * 3
    inside = 200 + 0.35 * (np.array(color_for(1)) - 200)
    np.testing.assert_allclose(tile[45, 35], inside, atol=2)


def test_large_images_shrink_with_their_boxes(coco, tmp_path):
    images = [{"id": 1, "file_name": "big.png", "width": 640, "height": 320}]
    table = read_completed(coco(content([garment(1, 5, (200, 100, 200, 200))], images)))
    ((_, tile),) = inspection.contact_sheet(table, tmp_path, 1).tiles
    assert tile.shape == (160, 320, 3)
    assert tuple(tile[149, 150]) == color_for(1)  # 300 / 2, exclusive
    assert tuple(tile[151, 150]) == (200,) * 3


def test_stored_pixels_count(coco, tmp_path):
    """Annotations are for the file as stored, whatever its EXIF orientation says."""
    images = [{"id": 1, "file_name": "turned.jpg", "width": 60, "height": 40}]
    path = coco(content([garment(1, 5, (5, 5, 20, 20))], images))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    sheet = inspection.contact_sheet(read_completed(path), tmp_path, 1)
    assert not sheet.failed and sheet.tiles[0][1].shape == (40, 60, 3)


def test_missing_and_resized_images_are_listed(many, tmp_path):
    (tmp_path / "17.png").unlink()
    Image.new("RGB", (41, 30)).save(tmp_path / "18.png")
    (tmp_path / "5.png").write_bytes(b"no image")
    sheet = inspection.contact_sheet(many, tmp_path, 100)
    failed = dict(sheet.failed)
    assert set(failed) == {"17.png", "18.png", "5.png"} and len(sheet.tiles) == 37
    assert "17.png does not exist" in failed["17.png"]
    assert "18.png is 41 x 30 but annotated as 40 x 30" in failed["18.png"]


def test_it_gives_up_when_nearly_all_are_missing(many, tmp_path):
    for i in range(2, 41):
        (tmp_path / f"{i}.png").unlink()
    sheet = inspection.contact_sheet(many, tmp_path, 30)
    assert len(sheet.failed) == inspection.MOST_FAILURES


def test_an_image_without_instances(coco, tmp_path):
    table = read_completed(coco(content([])))
    sheet = inspection.contact_sheet(table, tmp_path, 5)
    assert len(sheet.tiles) == 3 and not sheet.classes
    assert (sheet.tiles[0][1] == 200).all()


def test_crowds_are_drawn_but_cover_no_class(tmp_path):
    table = read_completed(write_foreign(tmp_path))
    sheet = inspection.contact_sheet(table, tmp_path / "val2017", 1)
    assert names_on(sheet, table) == ["x 1.png"]  # the other has its brushes in a crowd only
    sheet = inspection.contact_sheet(table, tmp_path / "val2017", 2)
    tile = dict(sheet.tiles)[1]
    assert tuple(tile[50, 30]) == color_for(2)  # the crowd's lowest row


def test_montage():
    tiles = [np.full((20, 30, 3), 10 * i, np.uint8) for i in range(1, 9)]
    sheet = np.asarray(inspection.montage(tiles, ["very long name of an image.jpg"] * 8))
    assert sheet.shape == (2 * (20 + 18 + 10) + 10, 6 * 40 + 10, 3)
    assert (sheet[10:30, 10:40] == 10).all()
    assert (sheet[58:78, 50:80] == 80).all()
    assert (sheet[:, 40:50] == 255).all()  # no name reaches into the next column


# --- The command ------------------------------------------------------------------------------


def run(*options, cwd=ROOT, status=0):
    return run_command("inspect", *options, cwd=cwd, status=status)


@pytest.fixture
def data(coco, tmp_path):
    """A data set in DeepFashion2's layout, converted."""
    folder = tmp_path / "data" / "deepfashion2"
    coco(folder=folder / "train" / "image")
    (folder / "train" / "image" / "things.json").rename(folder / "train_coco.json")
    return folder


def test_command(data, tmp_path):
    printed = run(cwd=tmp_path)  # all defaults
    out = tmp_path / "output_folder" / "inspect_train"
    assert "3 images, 1 of them without instances; 4 instances" in printed
    assert "5  vest                             3   75.0%         2" in printed
    assert "imbalance 3:1, vest to skirt" in printed
    assert "scale: small 1, moderate 1, large 1, missing 1" in printed
    assert "problem" not in printed and "written: output_folder/inspect_train/index.html" in printed
    found = json.loads((out / "statistics.json").read_text())
    expected = statistics(read_completed(data / "train_coco.json"))
    assert {key: found[key] for key in expected} == expected
    assert found["picture_folder"] == "data/deepfashion2/train/image"
    assert sorted(found["sheet"]["pictures"]) == ["a.png", "b.png", "c.png"]
    assert found["sheet"]["failed"] == [] and found["sheet"]["classes_not_shown"] == []
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.size == (10 + 3 * 110, 10 + 120 + 18 + 10)


def test_limit_images_and_seed(data, tmp_path):
    options = ["--data", data, "--limit", 2, "--pictures", 1, "--seed", 3]
    printed = run(*options, "--output_folder", tmp_path / "out")
    assert "2 images, 1 of them without instances; 1 instances" in printed
    found = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert (found["limit"], found["sheet"]["seed"]) == (2, 3)
    assert found["sheet"]["pictures"] == ["b.png"]


def test_any_coco_file(tmp_path):
    path = write_foreign(tmp_path)
    printed = run("--annotations", path, cwd=tmp_path)
    assert "2 images, 0 of them without instances; 3 instances, 1 crowds" in printed
    assert "occlusion: n/a" in printed and "人" in printed
    assert "2 annotations without a box or an area" in printed
    out = tmp_path / "output_folder" / "inspect_val2017"
    found = json.loads((out / "statistics.json").read_text())
    assert found["picture_folder"] == str(tmp_path / "val2017")
    assert len(found["sheet"]["pictures"]) == 2


def test_missing_images_are_no_end(data, tmp_path):
    (data / "train" / "image" / "a.png").unlink()
    out = tmp_path / "out"
    printed = run("--data", data, "--output_folder", out)
    assert "1 images could not be drawn:" in printed and "a.png does not exist" in printed
    assert (out / "contact_sheet.png").exists()
    found = json.loads((out / "statistics.json").read_text())
    assert found["sheet"]["classes_not_shown"] == ["skirt"]
    # None left: the sheet of the earlier run goes, as it shows what is not there.
    (data / "train").rename(tmp_path / "away")
    printed = run("--data", data, "--output_folder", out)
    assert "no images found; give their folder with --images" in printed
    assert not (out / "contact_sheet.png").exists()
    printed = run("--data", data, "--output_folder", out, "--images", tmp_path / "away" / "image")
    assert "contact_sheet.png (2 images)" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "there is no file or folder nowhere"),
        (["--split", "validation", "--data", "data/deepfashion2"], "has no split validation"),
        (["--annotations", "no.json"], "there is no file or folder no.json"),
        (["--annotations", "data"], "python convert_to_coco.py --data data/deepfashion2"),
        (["--images", "nowhere"], "no folder nowhere"),
        (["--annotations", "bad.json"], "bad.json is not a COCO instances file"),
        (["--pictures", "0"], "give 1 or more"),
        (["--seed", "-1"], "give 0 or more"),
    ],
)
def test_errors_say_what_to_do(data, tmp_path, options, message):
    (tmp_path / "bad.json").write_text("[]")
    assert message in run(*options, cwd=tmp_path, status=2)
    assert not (tmp_path / "output_folder").exists()


# --- The page ---------------------------------------------------------------------------------


def page_of(path, folder, out, **options):
    inspection.inspect_coco(path, [folder], out, "train", **options)
    return out / "index.html"


@needs_browser
def test_the_page_in_a_browser(data, tmp_path):
    page = page_of(data / "train_coco.json", data / "train" / "image", tmp_path / "out")
    (tmp_path / "out" / "contact_sheet.png").unlink()  # the page needs no other file
    with open_page(page) as driver:
        text = driver.execute_script("return document.body.innerText")
        widths = driver.execute_script(
            "return [...document.querySelectorAll('figure img')].map(i => i.naturalWidth)"
        )
        rows = driver.execute_script(
            "return [...document.querySelectorAll('.classes tbody tr')].map(r => r.innerText)"
        )
        all_row = driver.execute_script(
            "return [...document.querySelector('.cross tbody tr').cells].map(c => c.innerText)"
        )
        bars = driver.execute_script(
            "return [...document.querySelectorAll('.chart')].map(c => [c.ariaLabel,"
            " [...c.querySelectorAll('.bar')].filter(b => b.getBBox().height > 0).length])"
        )
    assert "train: 4 instances in 3 images" in text
    assert "3 : 1\nimbalance\nvest to skirt" in text and "Without instances: shorts." in text
    assert rows[0].split() == ["vest", "5", "3", "75.0", "%", "2"]
    # scale with "missing", occlusion with "other", zoom_in, viewpoint, source
    assert all_row == ["all", *"1111", *"1111", *"211", *"121", *"31"]
    assert sorted(widths) == [60, 100, 100]
    assert dict(bars)["Instances per image"] == 3 and dict(bars)["Box width"] == 3


@needs_browser
def test_the_page_on_a_narrow_screen(data, tmp_path):
    page = page_of(data / "train_coco.json", data / "train" / "image", tmp_path / "out")
    with open_page(page) as driver:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False},
        )
        width = driver.execute_script("return document.documentElement.scrollWidth")
    assert width <= 400  # nothing but the tables scrolls sideways


@needs_browser
def test_names_are_text_on_the_page(tmp_path):
    path = write_foreign(tmp_path)
    with open_page(page_of(path, tmp_path / "val2017", tmp_path / "out")) as driver:
        text = driver.execute_script("return document.body.innerText")
        marked = driver.execute_script("return document.querySelectorAll('brush').length")
    assert "tooth <brush> (crowd)" in text and not marked
    assert "Not annotated: scale, occlusion, zoom_in, viewpoint, source." in text
    assert "2 instances have run-length encoded masks" in text
    assert "annotations without a box or an area" in text


@needs_browser
@pytest.mark.parametrize("coco_content", [content([], [], []), content([])])
def test_the_page_of_nothing(tmp_path, coco_content):
    (tmp_path / "x.json").write_text(json.dumps(coco_content))
    with open_page(page_of(tmp_path / "x.json", tmp_path / "none", tmp_path / "out")) as driver:
        text = driver.execute_script("return document.body.innerText")
    assert f"0 instances in {len(coco_content['images'])} images" in text
    assert "No images were found" in text
