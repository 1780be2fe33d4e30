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

CONVS = ["conv1", "conv2", "conv3", "conv4", "conv5"]
LINEARS = ["fc6", "fc7", "fc8"]


def load(path):
    """The net, for n x 3 x side x side, in evaluation mode; the file's metadata; the mean image."""
    with safe_open(path, "pt") as file:
        facts, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    mean, model = tensors.pop("mean_image"), json.loads(facts["model"])
    if owt := model["name"] == "alexnet-owt":  # torchvision's names, for torchvision.models.alexnet
        names = dict(zip("features.0 features.3 features.6 features.8 features.10".split(), CONVS))
        names.update(zip("classifier.1 classifier.4 classifier.6".split(), LINEARS))
        tensors = {names[name.rpartition(".")[0]] + "." + name.rpartition(".")[2]: it for name, it in tensors.items()}
    layers, g = OrderedDict(), model["groups"]
    for n, (stride, pad, groups) in enumerate([(4, 2 * owt, 1), (1, 2, g), (1, 1, 1), (1, 1, g), (1, 1, g)], 1):
        out, into, size, _ = tensors[f"conv{n}.weight"].shape
        layers[f"conv{n}"] = nn.Conv2d(into * groups, out, size, stride, pad, groups=groups)
        if f"bn{n}.weight" in tensors:  # alexnet-bn
            layers[f"bn{n}"] = nn.BatchNorm2d(out)
        layers[f"relu{n}"] = nn.ReLU()
        if model["name"] == "alexnet" and n in (1, 2):  # alpha is 1e-4; PyTorch divides its own by 5
            layers[f"norm{n}"] = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        if n in (1, 2, 5):
            layers[f"pool{n}"] = nn.MaxPool2d(3, 2)
    layers["flat"] = nn.Flatten()
    for name in LINEARS:
        out, into = tensors[f"{name}.weight"].shape
        layers[name], layers[f"relu_{name}"] = nn.Linear(into, out), nn.ReLU()
    del layers["relu_fc8"]
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
