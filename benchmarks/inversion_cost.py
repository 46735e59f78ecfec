"""Compare the counted cost of an image with the time of a step, and measure the peak memory of an inversion.

    uv run python benchmarks/inversion_cost.py --json result.json
    uv run python benchmarks/inversion_cost.py --memory 1 2 1000

Without --memory: for networks from Conv4 to ViT with random weights, multiply-adds and bytes of an image, and its CPU
time in the forward and backward pass of an inversion, relative to a Conv4 with 64 channels at 32 pixels. With it:
resident memory and CPU seconds of `dfml invert` on a ResNet-50 with random weights and 10 classes at 224 pixels, in a
process of its own for each limit in GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from dfml.backbones import create_backbone, size_arguments
from dfml.evaluation.protocol import versions
from dfml.inversion.image_cost import bytes_per_image, image_operations, multiply_adds
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.writer import write_member

REFERENCE = ("conv4_64", 32)
NETWORKS = (
    REFERENCE,
    ("conv4", 32),
    ("conv4", 84),
    ("fewshot_resnet10", 32),
    ("resnet18", 32),
    ("resnet18", 48),
    ("resnet18", 84),
    ("resnet50", 32),
    ("resnet50", 224),
    ("mobilenetv3_small_100", 48),
    ("mobilenetv3_small_100", 112),
    ("efficientnet_b0", 48),
    ("vit_tiny_patch16_224", 64),
    ("convnext_atto", 48),
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", nargs="+", metavar="GIB")
    parser.add_argument("--per-class", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        rows = peak_memory(arguments.memory, arguments.per_class)
    else:
        rows = [network_cost(name, size, arguments.repeats) for name, size in NETWORKS]
        for row in rows:
            for quantity in ("multiply_adds", "counted", "milliseconds"):
                row[f"relative_{quantity}"] = float(row[quantity]) / float(rows[0][quantity])
    for row in rows:
        print("  ".join(f"{key} {value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "versions": versions()}, indent=2), encoding="utf-8")


def network_cost(name: str, size: int, repeats: int) -> dict[str, float | str]:
    """Counted cost of an image, and the shortest of several measured CPU times."""
    network = create_backbone(name, 20, seed=0, **size_arguments(name, size))
    classifier = PretrainedClassifier(network, tuple(f"class {i}" for i in range(20)), Preprocessing(size, MEAN, STD))
    images = torch.rand(4 if size > 200 else 40, 3, size, size).requires_grad_()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        torch.autograd.grad(classifier.logits_and_statistics(images)[0].sum(), images)
        times.append(time.process_time() - start)
    return {
        "network": f"{name}, {size}",
        "multiply_adds": float(multiply_adds(classifier)),
        "bytes": float(bytes_per_image(classifier, size)),
        "counted": float(image_operations(classifier)),
        "milliseconds": 1000.0 * min(times) / len(images),
    }


def peak_memory(limits: list[str], per_class: int) -> list[dict[str, float | str]]:
    """Peak resident memory in GiB and CPU seconds of two steps of `dfml invert`, for every limit."""
    rows: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory() as folder:
        network, labels = create_backbone("resnet50", 10, seed=0), tuple(f"class {i}" for i in range(10))
        write_member(
            Path(folder, "zoo", "resnet50"),
            network,
            architecture="resnet50",
            labels=labels,
            preprocessing=Preprocessing(224, MEAN, STD),
            arguments={},
        )
        for limit in limits:
            command = [sys.executable, "-m", "dfml", "invert", f"{folder}/zoo", "--out", f"{folder}/{limit}"]
            command += ["--per-class", str(per_class), "--steps", "2", "--threads", "1", "--memory", limit]
            process = os.spawnv(os.P_NOWAIT, command[0], command)
            _, status, usage = os.wait4(process, 0)
            if status:
                raise SystemExit(f"dfml invert --memory {limit} failed with status {status}")
            rows.append({"limit": limit, "peak_gib": usage.ru_maxrss / 2**20, "cpu_seconds": usage.ru_utime})
    return rows


if __name__ == "__main__":
    main()
