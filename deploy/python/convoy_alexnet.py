"""Loads a file of `convoy-worker export` into plain PyTorch (needs torch, safetensors, pillow).

    net, facts, mean = load("net.safetensors")
    logits = net(pixels("cat.jpg", facts, mean)[None])
    print(json.loads(facts["class_names"])[logits.argmax()])
"""
import json
from collections import OrderedDict

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn


def load(path):
    """The net, for n x 3 x side x side, in evaluation mode; the file's metadata; the mean image."""
    with safe_open(path, "pt") as file:
        facts, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    mean, g = tensors.pop("mean_image"), json.loads(facts["model"])["groups"]
    layers = OrderedDict()
    for n, (stride, pad, groups) in enumerate([(4, 0, 1), (1, 2, g), (1, 1, 1), (1, 1, g), (1, 1, g)], 1):
        out, into, size, _ = tensors[f"conv{n}.weight"].shape
        layers[f"conv{n}"] = nn.Conv2d(into * groups, out, size, stride, pad, groups=groups)
        layers[f"relu{n}"] = nn.ReLU()
        if n in (1, 2):  # the paper's alpha is 1e-4; PyTorch divides what it is given by 5
            layers[f"norm{n}"] = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        if n in (1, 2, 5):
            layers[f"pool{n}"] = nn.MaxPool2d(3, 2)
    layers["flat"] = nn.Flatten()
    for n in (6, 7, 8):
        out, into = tensors[f"fc{n}.weight"].shape
        layers[f"fc{n}"] = nn.Linear(into, out)
        layers[f"relu{n}"] = nn.ReLU() if n < 8 else nn.Identity()
    net = nn.Sequential(layers)
    net.load_state_dict(tensors)
    return net.eval(), facts, mean


def pixels(image, facts, mean):
    """What the net takes, 3 x side x side, of a picture: the centre, less the mean, scaled."""
    image, side = Image.open(image).convert("RGB"), int(facts["input_side"])
    width, height = image.size
    if min(width, height) != 256:
        short = min(width, height)
        image = image.resize((width * 256 // short, height * 256 // short), Image.BILINEAR)
    left, top = (image.width - 256) // 2, (image.height - 256) // 2
    square = np.asarray(image.crop((left, top, left + 256, top + 256)), dtype=np.float32)
    margin = (256 - side) // 2
    square = torch.from_numpy(square.copy()).permute(2, 0, 1) - mean
    return square[:, margin : margin + side, margin : margin + side] * float(facts["pixel_scale"])
