"""Draws the small pictures in common/src/image/fixtures: odd JPEG files, and what Pillow makes of each.

Run with Pillow 10 or newer from the repository's root:

    python3 deploy/parity/make_images.py

NAME.jpg is a file as ImageNet or a user has it, and NAME.rgb what `Image.open(..).convert("RGB")`
gives: width and height (little-endian, 4 bytes each), then height x width x 3 bytes.
"""

import io
import pathlib
import struct

from PIL import Image

FOLDER = pathlib.Path("common/src/image/fixtures")
WIDTH, HEIGHT = 48, 40


def drawn(mode):
    """Slopes and a disc, smooth enough for JPEG, different in every channel."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    picture = Image.new(mode, (WIDTH, HEIGHT))
    for y in range(HEIGHT):
        for x in range(WIDTH):
            inside = (x - 20) ** 2 + (y - 18) ** 2 < 150
            values = [x * 4 + 20, y * 5 + 10, 220 - x * 3 - y, 60 + x + y * 2]
            values = [min(255, max(0, v // 2 + 90 if inside else v)) for v in values[:bands]]
            picture.putpixel((x, y), tuple(values) if bands > 1 else values[0])
    return picture


def jpeg(picture, **options):
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92, **options)
    return out.getvalue()


def without_adobe_marker(data):
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + struct.unpack(">H", data[at + 2:at + 4])[0]:]


def as_ycck(data):
    """The same inks, said to be YCCK: Adobe's marker with transform 2."""
    at = data.index(b"Adobe")
    return data[:at + 11] + b"\x02" + data[at + 12:]


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(drawn("RGB"), exif=exif.tobytes())


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    cmyk = jpeg(drawn("CMYK"))
    files = {
        "cmyk": cmyk,
        "ycck": as_ycck(cmyk),
        "cmyk_without_marker": without_adobe_marker(cmyk),
        "grey": jpeg(drawn("L")),
        "progressive": jpeg(drawn("RGB"), progressive=True),
        "subsampled": jpeg(drawn("RGB"), subsampling=2, optimize=True),
        "half_subsampled": jpeg(drawn("RGB"), subsampling=1),
        "rgb_components": jpeg(drawn("RGB"), keep_rgb=True),
        "rotated": rotated(),
    }
    for name, data in files.items():
        (FOLDER / f"{name}.jpg").write_bytes(data)
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        size = struct.pack("<II", picture.width, picture.height)
        (FOLDER / f"{name}.rgb").write_bytes(size + picture.tobytes())
        print(name, len(data), picture.size)


if __name__ == "__main__":
    main()
