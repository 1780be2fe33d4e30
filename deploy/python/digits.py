#!/usr/bin/env python3
"""Writes scikit-learn's handwritten digits as a small real data set in ImageNet's layout.

usage: digits.py FOLDER

1,797 digits of 8 x 8 grey levels by 43 people (E. Alpaydin, C. Kaynak: Optical Recognition of
Handwritten Digits, UCI, 1998) become JPEG files of 256 x 256 pixels (bicubic, quality 95, dark ink
on white):

    FOLDER/train/0 ... FOLDER/train/9    1,437 digits
    FOLDER/val/0 ... FOLDER/val/9        360 digits: every fifth of the list, from the first on

The split is that rule and nothing random. Needs scikit-learn and pillow. Then:

    convoy prepare FOLDER data/digits
    convoy launch configs/digits.toml --workers 2
    convoy-worker evaluate --checkpoint runs/digits@best --crops 10
    deploy/python/train_digits.py FOLDER                  # the same recipe in plain PyTorch
"""
import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HELD_OUT = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    digits = load_digits()
    counts = {"train": 0, "val": 0}
    for number, (image, label) in enumerate(zip(digits.images, digits.target)):
        split = "val" if number % HELD_OUT == 0 else "train"
        counts[split] += 1
        grey = 255 - np.rint(image * 255 / 16).astype(np.uint8)
        picture = Image.fromarray(grey).resize((256, 256), Image.BICUBIC).convert("RGB")
        place = folder / split / str(label)
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{number:04}.jpeg", quality=95)
    print(f"{folder}: {counts['train']} digits in train, {counts['val']} in val")


if __name__ == "__main__":
    main()
