#!/usr/bin/env python3
"""Writes common/tests/fixtures/pictures/: small pictures, and what PIL and torchvision make of them.

Usage, in an environment with `torchvision`, `pillow` and `numpy`:

    python deploy/parity/make_pictures.py [FOLDER]

`common/tests/pictures.rs` reads them and does the same with Convoy: decodes, scales the shorter side
to 256 and takes the centre square. `expected.json` has for each picture and each of these three steps
the size, the mean of each channel, and 256 values at places that a hash of their number chooses (both
sides compute it).
"""

import json
import pathlib
import sys

import numpy
import PIL
import torchvision
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

SAMPLES = 256


def mix(x):
    """A bijection of 32-bit integers (the `lowbias32` hash of C. Wellons)."""
    x = x ^ (x >> numpy.uint32(16))
    x = x * numpy.uint32(0x7FEB352D)
    x = x ^ (x >> numpy.uint32(15))
    x = x * numpy.uint32(0x846CA68B)
    return x ^ (x >> numpy.uint32(16))


def picture(number, width, height):
    """Slopes, waves of several lengths, and a few edges in full colour."""
    y, x = numpy.mgrid[0:height, 0:width].astype(numpy.float64)
    random = numpy.random.default_rng(number)
    out = numpy.zeros((height, width, 3))
    for channel in range(3):
        plane = 120 + 50 * numpy.sin(x / 37 + channel) * numpy.cos(y / 29 - channel)
        for length in (40, 17, 9, 5):
            angle, phase = random.uniform(0, 6.3, 2)
            wave = numpy.sin((x * numpy.cos(angle) + y * numpy.sin(angle)) * 6.28 / length + phase)
            plane += length**0.5 * 3 * wave
        out[..., channel] = plane
    for _ in range(5):
        left, top = random.integers(0, width * 3 // 4), random.integers(0, height * 3 // 4)
        w, h = random.integers(8, width // 2), random.integers(8, height // 2)
        out[top : top + h, left : left + w] = out[top : top + h, left : left + w] * 0.4 + random.uniform(0, 150, 3)
    return Image.fromarray(out.clip(0, 255).round().astype(numpy.uint8))


def summary(image):
    pixels = numpy.asarray(image)
    height, width, channels = pixels.shape
    assert channels == 3
    flat = pixels.reshape(-1)
    with numpy.errstate(over="ignore"):
        places = mix(numpy.arange(SAMPLES, dtype=numpy.uint32)) % numpy.uint32(flat.size)
    return {
        "width": width,
        "height": height,
        "means": [round(float(it), 4) for it in pixels.mean(axis=(0, 1))],
        "values": [int(flat[place]) for place in places],
    }


def main():
    default = pathlib.Path(__file__).parents[2] / "common/tests/fixtures/pictures"
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else default)
    folder.mkdir(parents=True, exist_ok=True)
    jpeg = lambda **more: dict(format="JPEG", **more)
    cases = [
        ("landscape-420.jpg", (400, 300), "RGB", jpeg(quality=85, subsampling="4:2:0")),
        ("portrait-444.jpg", (280, 372), "RGB", jpeg(quality=90, subsampling="4:4:4")),
        ("half-422.jpg", (259, 256), "RGB", jpeg(quality=85, subsampling="4:2:2")),
        ("progressive.jpg", (330, 257), "RGB", jpeg(quality=80, subsampling="4:2:0", progressive=True)),
        ("small.jpg", (91, 70), "RGB", jpeg(quality=90, subsampling="4:2:0")),
        ("grey.jpg", (320, 280), "L", jpeg(quality=85)),
        ("inks.jpg", (264, 270), "CMYK", jpeg(quality=85)),
        ("exact.png", (130, 101), "RGB", dict(format="PNG", optimize=True)),
    ]
    expected = {"pillow": PIL.__version__, "torchvision": torchvision.__version__, "pictures": {}}
    for number, (name, size, mode, options) in enumerate(cases):
        picture(number, *size).convert(mode).save(folder / name, **options)
        decoded = Image.open(folder / name).convert("RGB")
        scaled = F.resize(decoded, [256], interpolation=v2.InterpolationMode.BILINEAR, antialias=True)
        centre = F.center_crop(scaled, [256, 256])
        steps = {"decoded": decoded, "scaled": scaled, "centre": centre}
        expected["pictures"][name] = {step: summary(image) for step, image in steps.items()}
    text = json.dumps(expected, separators=(",", ":")).replace('},"', '},\n"')
    (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
