#!/usr/bin/env python3
"""Compares the logits of an exported net in PyTorch with Convoy's own.

usage: check_export.py WORKER FILE.safetensors [--images N] [--readme README.md]

Draws N pictures of 256 x 256 random blotches as PNG files, so that no decoder can differ, lets
`WORKER predict` (convoy-worker) and convoy_alexnet.py look at the same file and the same pictures,
and fails if a logit differs by more than 1e-4 of the largest one, or the order of classes differs
where their logits are further apart than that. With --readme, the lines of Python that the README shows
load the same file, and their net must give the very same logits.
"""
import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import convoy_alexnet


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worker", help="the program convoy-worker")
    parser.add_argument("file", help="what `convoy-worker export` wrote")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--readme", type=Path, help="whose lines of Python are to load the file, too")
    args = parser.parse_args()

    torch.set_num_threads(1)
    net, facts, mean = convoy_alexnet.load(args.file)
    if args.readme:
        same_as_the_readme(args.readme, args.file, net)
    classes = json.loads(facts["class_names"])
    random = np.random.default_rng(0)
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        images = []
        for number in range(args.images):
            coarse = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((256, 256), Image.BICUBIC)
            images.append(Path(folder) / f"{number}.png")
            image.save(images[-1])
        command = [args.worker, "predict", "--checkpoint", args.file, "--json", "--device", "cpu"]
        command += ["--top", str(len(classes)), *map(str, images)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600).stdout
        told = [json.loads(line) for line in output.splitlines()]
        assert [it["image"] for it in told] == [str(it) for it in images], "pictures in order"
        for image, it in zip(images, told):
            with torch.no_grad():
                logits = net(convoy_alexnet.pixels(image, facts, mean)[None])[0].double()
            own = torch.zeros_like(logits)
            for prediction in it["predictions"]:
                own[prediction["label"]] = prediction["logit"]
                assert prediction["class"] == classes[prediction["label"]]
            tolerance = 1e-4 * logits.abs().max().clamp(min=1e-30)
            difference = (own - logits).abs().max()
            worst = max(worst, float(difference / logits.abs().max()))
            assert difference <= tolerance, f"{image}: logits differ by {difference} of {logits.abs().max()}"
            ranked = logits[[prediction["label"] for prediction in it["predictions"]]]
            assert (ranked[1:] - ranked[:-1]).max() <= tolerance, f"{image}: another order of classes"
    print(f"{args.images} pictures, {len(classes)} classes: logits agree to {worst:.1e} of the largest")


def same_as_the_readme(readme, path, net):
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    [block] = [block for block in blocks if "safe_open" in block]
    lines = block.replace('"net.safetensors"', repr(str(path)))
    assert lines != block, "the README's lines open net.safetensors"
    shown = {}
    exec(lines, shown)  # the README's own words are what is tested
    batch = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (2, 3, 227, 227)).astype(np.float32))
    with torch.no_grad():
        assert torch.equal(shown["net"](batch), net(batch)), "the README's net gives other logits"
    print(f"the README's {len(block.splitlines())} lines load the same net")


if __name__ == "__main__":
    sys.exit(main())
