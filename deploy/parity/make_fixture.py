#!/usr/bin/env python3
"""Writes worker/tests/fixtures/parity.json: what plain PyTorch makes of the nets that Convoy trains.

Usage, in an environment with `torch`, `torchvision` and `numpy`:

    python deploy/parity/make_fixture.py [--float64] [OUTPUT]

`worker/tests/parity.rs` reads the file and computes the same with Convoy. Nothing large is stored,
because both sides make inputs and weights by one closed formula in integers (`numbers` below and in
the test), and a tensor is told by its norm, 256 of its entries and 8 projections (`summary`).

For each net, with few classes, a batch of 4 and no dropout:

  logits       of the first batch, in evaluation
  losses       of 10 steps of SGD with momentum and weight decay on that batch
  gradients    of the first step, for every parameter
  weights      after the 10 steps
  momentum     of every parameter after the 10 steps
  statistics   running mean and variance of batch normalisation after the 10 steps
  logits_after of the same batch, in evaluation, after the 10 steps

`--float64` computes in double precision and prints how far single precision is from it: the
difference that two right programs may have.
"""

import argparse
import json
import math
import pathlib

import numpy
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

CLASSES = 10
BATCH = 4
MICROBATCH = 2
STEPS = 10
LR = 0.000001
MOMENTUM = 0.9
DECAY = 0.0005
BN_MOMENTUM = 0.1
SAMPLES = 256
PROJECTIONS = 8
CHUNK = 1 << 22

# Streams of `numbers`; parameters have their place in the net.
PIXELS, PLACES, SIGNS, LRN = 1000, 2000, 3000, 4000


def mix(x):
    """A bijection of 32-bit integers (the `lowbias32` hash of C. Wellons)."""
    x = x ^ (x >> numpy.uint32(16))
    x = x * numpy.uint32(0x7FEB352D)
    x = x ^ (x >> numpy.uint32(15))
    x = x * numpy.uint32(0x846CA68B)
    return x ^ (x >> numpy.uint32(16))


def words(stream, start, end):
    key = mix(numpy.array([stream], dtype=numpy.uint32))
    return mix(numpy.arange(start, end, dtype=numpy.uint32) ^ key)


def numbers(stream, shape, spread, centre=0.0):
    """Evenly spread around the centre: every step but the last rounding is exact."""
    count = math.prod(shape)
    out = numpy.empty(count, dtype=numpy.float32)
    for start in range(0, count, CHUNK):
        end = min(start + CHUNK, count)
        unit = (words(stream, start, end) >> numpy.uint32(8)) * 2.0**-24 - 0.5
        out[start:end] = (unit * spread + centre).astype(numpy.float32)
    return torch.from_numpy(out.reshape(shape))


def summary(index, tensor):
    """Norm, entries at 256 places, and sums with 8 patterns of signs, of the tensor number `index`."""
    flat = tensor.detach().double().numpy().reshape(-1)
    places = words(PLACES + index, 0, SAMPLES) % numpy.uint32(flat.size)
    projections = numpy.zeros(PROJECTIONS)
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK]
        signs = words(SIGNS + index, start, start + part.size)
        for bit in range(PROJECTIONS):
            sign = 1.0 - 2.0 * ((signs >> numpy.uint32(bit)) & numpy.uint32(1)).astype(numpy.float64)
            projections[bit] += part @ sign
    return {
        "norm": short(numpy.sqrt(flat @ flat)),
        "entries": [short(value) for value in flat[places]],
        "projections": [short(value) for value in projections],
    }


def short(value):
    return float(f"{float(value):.9g}")


def alexnet(groups, normalisation):
    """The net of the paper; `normalisation` makes what follows conv1 and conv2."""
    before = normalisation if normalisation is nn.BatchNorm2d else (lambda _: nn.Identity())
    after = normalisation if normalisation is not nn.BatchNorm2d else (lambda _: nn.Identity())
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, stride=4), before(96), nn.ReLU(), after(96), nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2, groups=groups), before(256), nn.ReLU(), after(256),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=groups), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=groups), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.Linear(9216, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, CLASSES),
    )  # fmt: skip


def lrn(_channels):
    # The paper's alpha is 1e-4 and not divided by the window's size; PyTorch divides by 5.
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


NETS = {
    "alexnet, 2 groups": (227, lambda: alexnet(2, lrn)),
    "alexnet, 1 group": (227, lambda: alexnet(1, lrn)),
    "alexnet-owt": (224, lambda: torchvision.models.alexnet(num_classes=CLASSES, dropout=0.0)),
    "alexnet-bn, 2 groups": (227, lambda: alexnet(2, nn.BatchNorm2d)),
}


def fill(net):
    """Weights by the formula: vectors within 0.1 of zero, or of one where they scale; He's spread
    for matrices, a 25th of it for the second one, so that large pixels make LRN work hard and the
    rest of the net has numbers of a usual size; and little for the last one.
    """
    scales = [m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    parameters = list(net.parameters())
    matrices = [index for index, parameter in enumerate(parameters) if parameter.dim() > 1]
    for index, parameter in enumerate(parameters):
        shape = tuple(parameter.shape)
        if parameter.dim() == 1:
            centre = 1.0 if any(parameter is scale for scale in scales) else 0.0
            values = numbers(index, shape, 0.2, centre)
        else:
            spread = math.sqrt(24.0 / math.prod(shape[1:]))
            spread = {matrices[1]: spread * 0.04, matrices[-1]: 0.02}.get(index, spread)
            values = numbers(index, shape, spread)
        with torch.no_grad():
            parameter.copy_(values)


def train(net, pixels, labels, norms):
    """One step's loss and gradients: microbatches one after the other, statistics put together."""
    net.train()
    sums = [[torch.zeros_like(n.running_mean), torch.zeros_like(n.running_var)] for n in norms]

    def watch(sum, share):
        def hook(_module, inputs):
            variance, mean = torch.var_mean(inputs[0].detach(), (0, 2, 3))
            sum[0] += share * mean
            sum[1] += share * variance

        return hook

    total = 0.0
    for start in range(0, BATCH, MICROBATCH):
        rows = slice(start, start + MICROBATCH)
        hooks = [
            norm.register_forward_pre_hook(watch(sum, MICROBATCH / BATCH))
            for norm, sum in zip(norms, sums)
        ]
        loss = F.cross_entropy(net(pixels[rows]), labels[rows], reduction="sum") / BATCH
        loss.backward()
        total += loss.item()
        for hook in hooks:
            hook.remove()
    for norm, (mean, variance) in zip(norms, sums):
        norm.running_mean.lerp_(mean, BN_MOMENTUM)
        norm.running_var.lerp_(variance, BN_MOMENTUM)
    return total


def logits(net, pixels):
    net.eval()
    with torch.no_grad():
        return [short(value) for value in net(pixels).reshape(-1)]


def case(name, dtype):
    side, make = NETS[name]
    net = make()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.0  # `train` keeps the running statistics.
    fill(net)
    net = net.to(dtype)
    pixels = numbers(PIXELS, (BATCH, 3, side, side), 128.0).to(dtype)
    labels = torch.tensor([(3 * i + 1) % CLASSES for i in range(BATCH)])
    parameters = list(net.parameters())
    result = {"name": name, "logits": logits(net, pixels), "losses": []}
    optimizer = torch.optim.SGD(net.parameters(), LR, momentum=MOMENTUM, weight_decay=DECAY)
    for step in range(STEPS):
        optimizer.zero_grad()
        result["losses"].append(short(train(net, pixels, labels, norms)))
        if step == 0:
            result["gradients"] = [summary(i, p.grad) for i, p in enumerate(parameters)]
        optimizer.step()
    result["weights"] = [summary(i, p) for i, p in enumerate(parameters)]
    momentum = [optimizer.state[parameter]["momentum_buffer"] for parameter in parameters]
    result["momentum"] = [summary(i, value) for i, value in enumerate(momentum)]
    running = [value for norm in norms for value in (norm.running_mean, norm.running_var)]
    result["statistics"] = [summary(i, value) for i, value in enumerate(running)]
    result["logits_after"] = logits(net, pixels)
    return result


def response_normalisation(dtype):
    """LRN alone, on positive values, and between ReLU and pooling."""
    x = numbers(LRN, (32, 16, 1, 1), 100.0, 50.0).to(dtype).requires_grad_()
    seed = numbers(LRN + 1, (32, 16, 1, 1), 2.0).to(dtype)
    y = lrn(16)(x)
    y.backward(seed)
    alone = {
        "output": [short(value) for value in y.detach().reshape(-1)],
        "gradient": [short(value) for value in x.grad.reshape(-1)],
    }
    x = numbers(LRN + 2, (2, 12, 13, 13), 200.0).to(dtype).requires_grad_()
    y = F.max_pool2d(lrn(12)(F.relu(x)), 3, 2)
    y.backward(numbers(LRN + 3, tuple(y.shape), 2.0).to(dtype))
    return {"alone": alone, "stage": {"output": summary(0, y), "gradient": summary(1, x.grad)}}


def distance(a, b):
    """Largest difference of entries and projections, in units of the size of what they describe."""
    scale = max(abs(value) for value in b["entries"]) or 1.0
    entries = max(abs(x - y) for x, y in zip(a["entries"], b["entries"])) / scale
    projections = max(abs(x - y) for x, y in zip(a["projections"], b["projections"]))
    return max(entries, projections / (b["norm"] or 1.0))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = pathlib.Path(__file__).resolve().parents[2]
    parser.add_argument("--float64", action="store_true", help="print the error of single precision")
    parser.add_argument("output", nargs="?", default=here / "worker/tests/fixtures/parity.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    fixture = {
        "made_by": f"torch {torch.__version__}, torchvision {torchvision.__version__}",
        "lrn": response_normalisation(torch.float32),
        "nets": [case(name, torch.float32) for name in NETS],
    }
    if args.float64:
        for single in fixture["nets"]:
            double = case(single["name"], torch.float64)
            for key in ("gradients", "weights", "momentum", "statistics"):
                pairs = zip(single[key], double[key])
                print(f"{single['name']}: {key}: {max([distance(a, b) for a, b in pairs] or [0]):.1e}")
            print(single["name"], "losses", single["losses"], "in double", double["losses"])
        return
    output = pathlib.Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(fixture, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")
    print(f"{output}: {output.stat().st_size} bytes, by {fixture['made_by']}")
    for net in fixture["nets"]:
        print(f"{net['name']}: losses", *[f"{loss:.4f}" for loss in net["losses"]])


if __name__ == "__main__":
    main()
