"""A folder of over 200 files such as a folder run may meet, most of them made to break it.

    python -m tests.helpers.hostile_files FOLDER

makes it for the command itself.
"""

import io
import os
import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

SIZE = (48, 64)  # width, height of most
NO_IMAGE = "it is not an image"
DAMAGED = "is cut off|(is|are) damaged|is not an image"
TOO_MANY = "it has more than the 178,956,970 pixels that are decoded|178,956,970 that are decoded"


def photo(size=SIZE):
    """An image that doesn't compress to nothing: mode RGB."""
    width, height = size
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    ramp = np.linspace(0, 190, width)[None, :, None] + np.zeros((height, 1, 3))
    return Image.fromarray((noise + ramp).astype(np.uint8))


def encoded(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def chunk(kind, data, crc=None):
    """A chunk of a PNG file; with a wrong checksum if one is given."""
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(width, height, depth, color, rows, *others):
    """A PNG file from its unpacked rows, each with its filter byte; others: chunks before them."""
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = [chunk(b"IHDR", head), *others, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


class Hostile:
    """Writes the files below a folder and keeps what is to be expected of each.

    Attributes:
        sound: name -> (width, height) of images that can be read.
        broken: name -> pattern of the reason why one can't.
        either: names of what may be read, or fail for the reason `DAMAGED`.
        passed_over: names of files that nobody would take for images.
        hidden: names of files that are left out.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.sound, self.broken = {}, {}
        self.either, self.passed_over, self.hidden = set(), set(), set()
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in (
            self._formats, self._modes, self._turned, self._shapes, self._cut, self._damaged,
            self._no_images, self._no_files, self._names, self._collisions,
        ):  # fmt: skip
            part()

    @property
    def count(self):
        """Number of files that a recursive run must tell of."""
        return sum(map(len, (self.sound, self.broken, self.either, self.passed_over)))

    def _write(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Image.Image):
            content = encoded(content, {".jpg": "JPEG"}.get(path.suffix.lower(), "PNG"))
        path.write_bytes(content)

    def _sound(self, name, content, size=SIZE):
        self._write(name, content)
        self.sound[name] = size

    def _broken(self, name, content, why=DAMAGED):
        self._write(name, content)
        self.broken[name] = why

    def _either(self, name, content):
        self._write(name, content)
        self.either.add(name)

    def _formats(self):
        kinds = {"bmp": "BMP", "webp": "WEBP", "tif": "TIFF", "gif": "GIF", "avif": "AVIF",
                 "jp2": "JPEG2000", "ppm": "PPM", "JPG": "JPEG", "jfif": "JPEG", "ico": "ICO"}  # fmt: skip
        for ending, kind in kinds.items():
            size = (48, 48) if kind == "ICO" else SIZE
            options = {"sizes": [size]} if kind == "ICO" else {}
            self._sound(f"formats/photo.{ending}", encoded(photo(size), kind, **options), size)
        frames = {"save_all": True, "append_images": [Image.new("RGB", SIZE, "red")] * 2}
        for ending, kind in {"gif": "GIF", "webp": "WEBP", "png": "PNG", "tif": "TIFF"}.items():
            self._sound(f"formats/frames.{ending}", encoded(photo(), kind, **frames))
        stereo = encoded(photo(), "MPO", save_all=True, append_images=[photo()])
        self._sound("formats/two images.jpg", stereo)
        for wrong in ("png", "gif", "tiff", "webp", "bmp", "avif"):
            self._sound(f"formats/a jpeg.{wrong}", encoded(photo(), "JPEG"))
        self._sound("formats/without an ending", encoded(photo(), "PNG"))
        for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
            data = encoded(photo(), "TIFF", compression=compression)
            self._sound(f"formats/{compression}.tif", data)

    def _modes(self):
        def sound(name, image, **options):
            self._sound(f"modes/{name}", encoded(image, options.pop("kind"), **options))

        for progressive in (False, True):
            for mode in ("L", "RGB", "CMYK"):
                name = f"{mode}{' progressive' * progressive}.jpg"
                sound(name, photo().convert(mode), kind="JPEG", progressive=progressive)
        for subsampling in range(3):
            sound(f"subsampling {subsampling}.jpg", photo(), kind="JPEG", subsampling=subsampling)
        # Adobe's YCCK is CMYK whose first three are stored as YCbCr; its marker ends in 2.
        ycck = encoded(photo().convert("CMYK"), "JPEG")
        marker = ycck.index(b"Adobe") + 11
        self._sound("modes/YCCK.jpg", ycck[:marker] + b"\2" + ycck[marker + 1 :])
        for mode in ("1", "L", "LA", "P", "RGBA"):
            sound(f"{mode}.png", photo().convert(mode), kind="PNG")
        palette = photo().quantize(16)
        sound("palette and transparency.png", palette, kind="PNG", transparency=3)
        sound("palette and alpha.png", palette, kind="PNG", transparency=bytes(range(16)))
        sound("palette and transparency.gif", palette, kind="GIF", transparency=3)
        sound("one colour clear.png", photo(), kind="PNG", transparency=(1, 2, 3))
        for mode in ("LA", "RGBA", "CMYK", "1", "P", "YCbCr"):
            sound(f"{mode}.tif", photo().convert(mode), kind="TIFF")
        sound("LAB.tif", lab(), kind="TIFF")
        grey = np.array(photo().convert("L"))
        sound("16 bit.png", Image.fromarray(grey.astype(np.uint16) * 257), kind="PNG")
        sound("16 bit.tif", Image.fromarray(grey.astype(np.uint16) * 257), kind="TIFF")
        sound("32 bit.tif", Image.fromarray(grey.astype(np.int32) * 257), kind="TIFF")
        sound("shares.tif", Image.fromarray(grey.astype(np.float32) / 255), kind="TIFF")
        odd = grey.astype(np.float32)
        odd[0, :4] = np.nan, np.inf, -np.inf, -1e30
        sound("not a number.tif", Image.fromarray(odd), kind="TIFF")
        wide = np.repeat(np.array(photo()), 2, axis=2)  # v * 257, high byte first
        rows = b"".join(b"\0" + row.tobytes() for row in wide)
        self._sound("modes/16 bit RGB.png", png(*SIZE, 16, 2, rows))
        alpha = np.repeat(np.dstack([np.array(photo()), grey]), 2, axis=2)
        rows = b"".join(b"\0" + row.tobytes() for row in alpha)
        self._sound("modes/16 bit RGBA.png", png(*SIZE, 16, 6, rows))
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        for ending, kind in {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}.items():
            sound(f"profile.{ending}", photo(), kind=kind, icc_profile=profile)
            sound(f"broken profile.{ending}", photo(), kind=kind, icc_profile=b"no profile" * 99)

    def _turned(self):
        for orientation in range(10):
            exif = Image.Exif()
            exif[0x0112] = orientation
            size = SIZE[::-1] if 5 <= orientation <= 8 else SIZE
            for ending, kind in {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}.items():
                data = encoded(photo(), kind, exif=exif)
                self._sound(f"turned/{orientation}.{ending}", data, size)
        broken = {
            "no directory": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0",
            "endless": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\x08\0\0\0",
            "nonsense": b"Exif\0\0" + b"\xff" * 64,
            "empty": b"Exif\0\0",
        }
        for name, exif in broken.items():
            self._sound(f"turned/{name}.jpg", encoded(photo(), "JPEG", exif=exif))

    def _shapes(self):
        for size in ((1, 1), (1, 2), (2, 1), (1, 700), (700, 1), (3, 5000), (16383, 1), (65000, 1),
                     (1, 65000)):  # fmt: skip
            name = f"shapes/{size[0]} x {size[1]}.png"
            self._sound(name, Image.new("RGB", size, (90, 20, 30)), size)
        self._sound("shapes/1 x 1.jpg", Image.new("RGB", (1, 1)), (1, 1))
        for width, height in ((65000, 65000), (2**31 - 1, 2**31 - 1), (20000, 10000)):
            data = png(width, height, 8, 2, b"")
            self._broken(f"shapes/said to be {width} x {height}.png", data, TOO_MANY)
        self._broken("shapes/0 x 0.png", png(0, 0, 8, 2, b""))
        self._broken("shapes/0 x 9.gif", b"GIF89a\0\0\x09\0\0\0\0;")
        frame = bytearray(encoded(photo(), "JPEG"))
        at = frame.index(b"\xff\xc0") + 5
        frame[at : at + 4] = struct.pack(">HH", 65535, 65535)
        self._broken("shapes/said to be 65535 x 65535.jpg", bytes(frame), TOO_MANY)
        huge = bytearray(encoded(photo(), "BMP"))
        huge[18:26] = struct.pack("<ii", 2**30, 2**30)
        self._broken("shapes/said to be huge.bmp", bytes(huge), TOO_MANY)

    def _cut(self):
        kinds = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF",
                 "gif": "GIF", "avif": "AVIF", "jp2": "JPEG2000"}  # fmt: skip
        for ending, kind in kinds.items():
            whole = encoded(photo(), kind)
            for percent in (1, 5, 25, 50, 75):
                data = whole[: max(1, len(whole) * percent // 100)]
                self._broken(f"cut/{percent:02}.{ending}", data)
        for count in (1, 2, 3, 4, 10, 20, 100):
            self._broken(f"cut/{count} bytes.jpg", encoded(photo(), "JPEG")[:count])
        for ending in ("jpg", "png", "webp", "gif", "tif", "bmp", "avif", "heic", "ppm"):
            self._broken(f"cut/empty.{ending}", b"", "the file is empty")
        progressive = encoded(photo(), "JPEG", progressive=True)
        self._broken("cut/progressive.jpg", progressive[: len(progressive) // 2])

    def _damaged(self):
        whole = encoded(photo(), "PNG")
        at = whole.index(b"IDAT") - 4
        length = struct.unpack(">I", whole[at : at + 4])[0]
        body = whole[at + 8 : at + 8 + length]
        bad = whole[:at] + chunk(b"IDAT", body, crc=1) + chunk(b"IEND", b"")
        self._either("damaged/wrong checksum.png", bad)
        bad = whole[:8] + chunk(b"IHDR", whole[16:29], crc=1) + whole[33:]
        self._broken("damaged/wrong checksum of the header.png", bad)
        self._broken("damaged/no data.png", whole[:at] + chunk(b"IEND", b""))
        self._broken("damaged/overwritten.png", whole[: at + 40] + b"\xaa" * 500)
        rows = b"".join(b"\0" + r.tobytes() for r in np.array(photo()))
        bomb = zlib.compress(b"\0" * 80_000_000)
        for name, extra in {
            "huge profile": chunk(b"iCCP", b"profile\0\0" + bomb),
            "huge text": chunk(b"zTXt", b"Comment\0\0" + bomb),
            "huge international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        }.items():
            data = png(*SIZE, 8, 2, rows, extra)
            self._broken(f"damaged/{name}.png", data, "its metadata unpack to too much")
        self._either("damaged/unknown filter.png", png(*SIZE, 8, 2, b"\x09" + rows[1:]))
        self._either("damaged/no palette.png", png(4, 4, 8, 3, b"\0\1\2\3\4" * 4))
        jpeg = encoded(photo(), "JPEG")
        self._sound("damaged/rubbish behind.jpg", jpeg + np.random.default_rng(2).bytes(2000))
        self._sound("damaged/two in one.jpg", jpeg * 2)
        comment = b"\xff\xfe\xff\xff" + b"c" * 65533
        self._sound("damaged/long comments.jpg", jpeg[:2] + comment * 9 + jpeg[2:])
        self._sound("damaged/text in it.png", encoded(photo(), "PNG", pnginfo=text_chunks()))
        self._broken("damaged/rubbish before.jpg", b"rubbish" + jpeg, NO_IMAGE)
        for seed in range(12):
            rng = np.random.default_rng(seed)
            kind = ("JPEG", "PNG", "WEBP", "TIFF")[seed % 4]
            data = bytearray(encoded(photo(), kind))
            for at in rng.integers(0, len(data), 30):
                data[at] = rng.integers(256)
            self._either(f"damaged/some bytes {seed}.{kind.lower()}", bytes(data))

    def _no_images(self):
        texts = {
            "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
            "html": b"<!doctype html><img src=x onerror=alert(1)>",
            "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj<</Type/Catalog>>endobj\n%%EOF",
            "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%id)",
            "text": b"not an image\n" * 20,
            "zip": b"PK\x03\x04" + b"\0" * 60,
            "hdf5": b"\x89HDF\r\n\x1a\n" + b"\0" * 600,
            "mpeg": b"\0\0\1\xb3\x10\0\x10\0" + b"\0" * 60,
            "gzip": b"\x1f\x8b\x08" + b"\0" * 60,
            "zeros": b"\0" * 4096,
            "ones": b"\xff" * 4096,
            "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        }
        for name, content in texts.items():
            self._broken(f"others/{name}.jpg", content, NO_IMAGE)
            self._write(f"others/{name}", content)
            self.passed_over.add(f"others/{name}")
        self._broken("others/random.png", np.random.default_rng(1).bytes(5000), NO_IMAGE)
        heic = b"\0\0\0\x18ftypheic" + b"\0" * 400
        self._broken("others/photo.heic", heic, "pillow-heif|are damaged|is not an image")
        self._write("others/notes.txt", b"none")
        self.passed_over.add("others/notes.txt")
        for name in (".hidden.jpg", "._resource.jpg", "Thumbs.db"):
            self._write(f"others/{name}", photo())
            self.hidden.add(f"others/{name}")

    def _no_files(self):
        folder = self.folder / "no files"
        (folder / "folder.jpg").mkdir(parents=True)
        self.broken["no files/folder.jpg"] = "is a directory"
        self._sound("no files/album.jpg/inside.png", photo())
        links = {"dangling.jpg": "nowhere.jpg", "circle.jpg": "circle.jpg", "one.png": "other.png",
                 "other.png": "one.png", "up.jpg": "../no files/gone/x.jpg"}  # fmt: skip
        for name, target in links.items():
            os.symlink(target, folder / name)
            dangles = name in ("dangling.jpg", "up.jpg")
            why = "is a link to a file that does not exist" if dangles else "leads in a circle"
            self.broken[f"no files/{name}"] = why
        os.symlink("album.jpg/inside.png", folder / "a link.png")
        self.sound["no files/a link.png"] = SIZE
        os.symlink("..", folder / "back")  # a circle of folders
        self.passed_over.add("no files/back")
        with suppress(OSError):  # some file systems have no pipes
            os.mkfifo(folder / "pipe.jpg")
            self.broken["no files/pipe.jpg"] = "is no regular file"
        os.symlink("/dev/zero", folder / "zero.png")
        self.broken["no files/zero.png"] = "is no regular file"

    def _names(self):
        names = [
            "two words.png", " leads.png", "trails .png", "quote'.png", 'quotes".png', "a\nline.png",
            "-dash.png", "--strict.png", "100%.png", "%41.png", "#1.png", "a?b.png", "a&b=c.png",
            "<b>bold.png", "</script><img src=x onerror=alert(1)>.png".replace("/", "\u2215"), "[1].png", "*.png",
            "a\\b.png", "a:b.png", "~home.png", "$HOME.png", "`id`.png", "a;b,c.png", "a\tb.png",
            "\u00e9t\u00e9.png", "e\u0301te\u0301.png", "\u5199\u771f.png", "\U0001f457.png",
            "\u202etxt.png", "zero\u200bwidth.png", "\x01\x1b[31m.png", "CON.png", "nul.jpg",
            "Case.png", "case.png", "CASE.PNG", "=1+1.png", "@sum.png", "{{ place }}.png",
            "[@images@].png", "x" * 246 + ".png", "x" * 247 + ".jp", "\u5199" * 82 + ".png",
            "..png", "...png", "a..png", "null.png", "0.png", "results.json.png",
        ]  # fmt: skip
        for folder in ("names", "names/\U0001f457 #1 %20 'x' \"y\"\n<i>"):
            for name in names:
                hidden = name.startswith(".")
                with suppress(OSError):  # what a file system doesn't take can't be met on it
                    self._write(f"{folder}/{name}", photo())
                    if hidden:
                        self.hidden.add(f"{folder}/{name}")
                    else:
                        self.sound[f"{folder}/{name}"] = SIZE
        bytes_name = os.fsdecode(b"names/not \xff utf-8.png")
        with suppress(OSError):
            self._sound(bytes_name, photo())

    def _collisions(self):
        """Names whose results would get each other's, or those of the run itself."""
        for name in (
            "a.jpg", "a.png", "a.jpg.png", "a.png.png", "a.jpg.jpg", "a.jpg~2", "a",
            "b.jpg", "b.jpg.png/inner.jpg", "b.jpg.jpg/inner.jpg", "b.jpg.json/inner.jpg",
            "b.jpg.classes.png/inner.jpg", "b.jpg.1_trousers.png/inner.jpg",
            "b.jpg.png~/inner.jpg",
        ):  # fmt: skip
            self._sound(f"twins/{name}", photo())
        for folder in ("records", "masks", "cutouts", "records~", "results.json", "index.html",
                       "images.json", "results.csv", "failures.csv", "Records", "MASKS"):  # fmt: skip
            self._sound(f"{folder}/a.jpg", photo())
        for name in ("records.png", "masks.png", "index.html.png", "results.png"):
            self._sound(name, photo())


def lab():
    """The photo in CIELAB."""
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    return ImageCms.applyTransform(photo(), transform)


def text_chunks():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 5000, zip=True)
    info.add_itxt("Title", "\u5199\u771f", "zh", "Titel")
    return info


if __name__ == "__main__":
    made = Hostile(sys.argv[1])
    print(f"{made.count} files: {len(made.sound)} sound, {len(made.broken)} broken")
