"""Measure the duration of a meta-iteration of PURER, and what keeping the members in memory saves.

    uv run python benchmarks/purer_step.py ZOO --shot 5 --json result.json

Prints median seconds of the dataset step and of the learner step. The dataset step is measured member by member,
stacked, and as a naive loop that reads, builds, copies and hooks every member anew, which the released code of PURER
does. All variants alternate in one process on one device.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dfml.evaluation.protocol import versions
from dfml.inversion.pixel_gradient import InversionGradient
from dfml.inversion.views import AnyView, sample_view
from dfml.methods.purer import PURER, PurerRun
from dfml.training.device import keep_freed_memory, select_device
from dfml.zoo import PretrainedClassifier
from dfml.zoo.folder import member_paths
from dfml.zoo.vetting import load_member, read_member_config
from dfml.zoo.zoo import Zoo


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--shot", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = select_device(arguments.device)
    keep_freed_memory()
    zoo = Zoo.open(arguments.zoo).to(device)
    steps = {
        "inner 1": PURER(shot=arguments.shot).start(zoo, device),
        "inner 5": PURER(shot=arguments.shot, learner={"inner_steps": 5}).start(zoo, device),
        "inner 1, first order": PURER(shot=arguments.shot, learner={"second_order": False}).start(zoo, device),
    }
    run = steps["inner 1"]
    assert isinstance(run, PurerRun)
    stacked = InversionGradient(zoo, run.dataset.preprocessing, run.config.inversion, stacked=True)
    tasks: dict[str, Callable[[], object]] = {
        "dataset step": lambda: run._inversion_gradient(1),
        "dataset step, stacked": lambda: stacked(*_request(run)),
        "dataset step, members reloaded": lambda: naive_gradient(run, arguments.zoo, device),
    }
    for name, each in steps.items():
        assert isinstance(each, PurerRun)
        tasks[f"learner step, {name}"] = lambda each=each: each._meta_train(1)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(arguments.repeats + 2):
        for name, task in tasks.items():
            duration = _time(task, device)
            if repeat >= 2:  # the first two are warm-up
                seconds[name].append(duration)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    resident = medians["dataset step"]
    result: dict[str, Any] = {
        "seconds": medians,
        "reloaded / resident": medians["dataset step, members reloaded"] / resident,
        "stacked / resident": medians["dataset step, stacked"] / resident,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "members": len(zoo),
        "device": str(device),
        "threads": arguments.threads,
        "versions": versions(),
    }
    for name, value in medians.items():
        print(f"{name:36s} {value:8.4f} s")
    for name in ("reloaded / resident", "stacked / resident"):
        print(f"{name:36s} {result[name]:8.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def naive_gradient(run: PurerRun, path: Path, device: torch.device) -> Tensor:
    """Compute the gradient of the dynamic dataset as the released code does, but with a plain sum over members."""
    pixels, weights = run.dataset.pixels.detach().requires_grad_(), run.config.inversion
    total = torch.zeros((), device=device)
    for folder, classes in zip(member_paths(path), run.classes_of_member, strict=True):
        member = load_member(read_member_config(folder))
        assert isinstance(member, PretrainedClassifier)
        network = copy.deepcopy(member.network).to(device).to(memory_format=torch.contiguous_format)
        layer_inputs: list[tuple[nn.BatchNorm2d, Tensor]] = []
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(lambda layer, inputs, _: layer_inputs.append((layer, inputs[0])))  # noqa: B023
        images = run.dataset.preprocessing.denormalise(torch.roll(pixels[classes].flatten(0, 1), (1, 1), (2, 3)))
        labels = torch.arange(len(classes), device=device).repeat_interleave(pixels.shape[1])
        inputs = member.preprocessing.normalise(images)
        total = total + functional.cross_entropy(network(inputs), labels) + weights.l2 * inputs.norm()
        for layer, x in layer_inputs:
            assert layer.running_mean is not None
            assert layer.running_var is not None
            mean, variance = x.mean((0, 2, 3)), x.permute(1, 0, 2, 3).flatten(1).var(1, unbiased=False)
            total = total + weights.batch_norm * (
                (variance - layer.running_var).norm() + (mean - layer.running_mean).norm()
            )
        for difference in (
            inputs[..., 1:] - inputs[..., :-1],
            inputs[..., 1:, :] - inputs[..., :-1, :],
            inputs[..., 1:, 1:] - inputs[..., :-1, :-1],
            inputs[..., 1:, :-1] - inputs[..., :-1, 1:],
        ):
            total = total + weights.total_variation * difference.norm()
    return torch.autograd.grad(total, pixels)[0]


def _request(run: PurerRun) -> tuple[list[int], list[Tensor], list[AnyView]]:
    members = run._sample_members(1)
    generator = torch.Generator().manual_seed(0)
    pixels = [run.dataset.pixels.detach()[run.classes_of_member[member]] for member in members]
    return members, pixels, [sample_view(run.config.inversion, generator) for _ in members]


def _time(task: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    task()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
