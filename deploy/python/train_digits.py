#!/usr/bin/env python3
"""Trains AlexNet on the digits in plain PyTorch: the recipe of configs/digits.toml, to compare with.

usage: train_digits.py FOLDER [--config configs/digits.toml] [--epochs N] [--max-steps N]
                              [--seed N] [--threads N]

FOLDER is what digits.py wrote. Net (grouped convolutions, response normalisation, dropout),
initial weights, batch, rate and its drops, momentum, weight decay, crops, flips, colour shift and
the mean image are those of the config; random numbers are PyTorch's own. Prints the errors on the
validation split after every epoch, by the centre crop. Needs torch and pillow.
"""
import argparse
import math
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

SIDE, STORED = 227, 256


def read(folder):
    """Pictures (n x 3 x 256 x 256, bytes) and labels of one split."""
    pictures, labels = [], []
    for label, place in enumerate(sorted(it for it in folder.iterdir() if it.is_dir())):
        for file in sorted(place.iterdir()):
            pixels = np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1)
            assert pixels.shape == (3, STORED, STORED), f"{file} is {pixels.shape}"
            pictures.append(pixels)
            labels.append(label)
    return torch.from_numpy(np.stack(pictures)), torch.tensor(labels)


def alexnet(model, classes):
    """The net of 2012 with the config's initial weights."""
    groups, width = model["groups"], lambda full: full // model.get("narrow", 1)
    norm = lambda: nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    pool, drop = lambda: nn.MaxPool2d(3, 2), lambda: nn.Dropout(model["dropout"])
    convs = [
        nn.Conv2d(3, width(96), 11, 4),
        nn.Conv2d(width(96), width(256), 5, 1, 2, groups=groups),
        nn.Conv2d(width(256), width(384), 3, 1, 1),
        nn.Conv2d(width(384), width(384), 3, 1, 1, groups=groups),
        nn.Conv2d(width(384), width(256), 3, 1, 1, groups=groups),
    ]
    linears = [
        nn.Linear(width(256) * 36, width(4096)),
        nn.Linear(width(4096), width(4096)),
        nn.Linear(width(4096), classes),
    ]
    for number, layer in enumerate(convs + linears, 1):
        fan_in = layer.weight[0].numel()
        kaiming = model["init"] == "kaiming" and number < 8
        nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / fan_in) if kaiming else 0.01)
        bias = {2: "conv_bias", 4: "conv_bias", 5: "conv_bias", 6: "fc_bias", 7: "fc_bias"}.get(number)
        nn.init.constant_(layer.bias, model[bias] if bias else 0.0)
    relu = nn.ReLU
    c1, c2, c3, c4, c5 = convs
    f6, f7, f8 = linears
    return nn.Sequential(
        c1, relu(), norm(), pool(), c2, relu(), norm(), pool(), c3, relu(), c4, relu(), c5, relu(), pool(),
        nn.Flatten(), f6, relu(), drop(), f7, relu(), drop(), f8,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, default=Path(__file__).parents[2] / "configs/digits.toml")
    parser.add_argument("--epochs", type=int, help="instead of the config's")
    parser.add_argument("--max-steps", type=int, default=None, help="ends the run after so many steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    config = tomllib.loads(args.config.read_text())
    model, recipe = config["model"], config["train"]
    assert config["schedule"]["kind"] in ("steps", "constant"), "only steps and constant are known here"
    assert set(config["schedule"]) <= {"kind", "drops"}, "no warm-up is known here"
    drops = config["schedule"].get("drops", [])
    scale, sigma = model["pixel_scale"], config["data"]["colour_sigma"]
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)

    train, labels = read(args.folder / "train")
    held_out, truth = read(args.folder / "val")
    mean = train.float().mean(0)
    colours = train.permute(1, 0, 2, 3).reshape(3, -1).double()
    values, axes = torch.linalg.eigh(torch.cov(colours, correction=0))
    deviations = axes * values.clamp(min=0).sqrt()

    def inputs(picture, x, y, mirrored, shift):
        window = picture[:, y : y + SIDE, x : x + SIDE].float() - mean[:, y : y + SIDE, x : x + SIDE]
        window = (window + shift[:, None, None]) * scale
        return window.flip(2) if mirrored else window

    def training_inputs(picture):
        x, y = torch.randint(0, STORED - SIDE + 1, (2,)).tolist()
        shift = (deviations @ (sigma * torch.randn(3, dtype=torch.double))).float()
        return inputs(picture, x, y, bool(torch.randint(0, 2, ())), shift)

    centre, still = (STORED - SIDE) // 2, torch.zeros(3)
    net = alexnet(model, int(labels.max()) + 1)
    optimizer = torch.optim.SGD(
        net.parameters(), recipe["lr"], recipe["momentum"], weight_decay=recipe["weight_decay"]
    )
    steps, begin = 0, time.monotonic()
    for epoch in range(args.epochs or recipe["epochs"]):
        rate = recipe["lr"] * math.prod(it["factor"] for it in drops if it["epoch"] <= epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        net.train()
        losses, seen = 0.0, 0
        for batch in torch.randperm(len(train)).split(recipe["batch"]):
            pixels = torch.stack([training_inputs(train[index]) for index in batch])
            loss = functional.cross_entropy(net(pixels), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            losses += loss.item() * len(batch)
            seen += len(batch)
            if args.max_steps and steps >= args.max_steps:
                break
        net.eval()
        errors, five = 0, 0
        with torch.no_grad():
            for indices in torch.arange(len(held_out)).split(64):
                pixels = torch.stack([inputs(held_out[i], centre, centre, False, still) for i in indices])
                ranked = net(pixels).topk(5, 1).indices == truth[indices, None]
                errors += int((~ranked[:, 0]).sum())
                five += int((~ranked.any(1)).sum())
        count = len(held_out)
        print(
            f"epoch {epoch + 1}: steps {steps}, rate {rate:g}, loss {losses / seen:.4f}, "
            f"errors {errors} of {count} ({100 * errors / count:.2f} %), top-5 {five}, "
            f"{time.monotonic() - begin:.0f} s",
            flush=True,
        )
        if args.max_steps and steps >= args.max_steps:
            break


if __name__ == "__main__":
    main()
