"""Whether the methods of a suite can learn from its zoos, found out before anything is trained.

A zoo that is not built yet is replaced by a stand-in, untrained networks of the planned architectures. Every method is
started on it, so that a method that refuses the zoo does so now and not after hours of building.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from dfml.backbones import create_backbone, require_whole_patches, size_arguments, sized
from dfml.benchmark.cells import Cell
from dfml.benchmark.data_catalog import LocatedDataset
from dfml.benchmark.suite import ZooSpec
from dfml.data.dataset import ImageDataset
from dfml.errors import DfmlError
from dfml.methods import find_method
from dfml.pretraining.plan import MemberPlan, plan_members
from dfml.zoo import Preprocessing, PretrainedClassifier, Zoo

_HALF = (0.5, 0.5, 0.5)  # mean and standard deviation of the stand-ins' preprocessing; any values do


def plan_zoo(spec: ZooSpec, datasets: Mapping[str, LocatedDataset]) -> list[tuple[MemberPlan, int]]:
    """Plan the members of a zoo of a suite; no image is decoded.

    Args:
        spec: The zoo's entry in the suite.
        datasets: Located data sets by name.

    Returns:
        The plan of every member, with the side length of its images in pixels.

    Raises:
        UsageError: If the plan cannot be made; see `dfml.pretraining.plan.plan_members`.
        DataError: If a data set has no training classes.
    """
    outlines = [_outline(datasets[name], size) for name, size in spec.sized_data]
    plans = plan_members(
        outlines, members=spec.members, way=spec.way, architectures=spec.arch, disjoint=spec.disjoint, seed=spec.seed
    )
    return [(plan, outlines[plan.dataset].images.shape[-1]) for plan in plans]


def _outline(dataset: LocatedDataset, size: int) -> ImageDataset:
    """The training classes and labels of a data set; all images are one black image, so that no memory is needed."""
    sizes = dataset.class_sizes("train")
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(list(sizes.values())))
    images = torch.zeros(1, 3, size, size, dtype=torch.uint8).expand(len(labels), -1, -1, -1)
    return ImageDataset(images, labels, tuple(sizes), f"{dataset.name}/train")


def stand_in(plans: Sequence[tuple[MemberPlan, int]]) -> Zoo:
    """Make a zoo of untrained members as planned.

    To save memory, all members of one architecture, size and number of classes share two networks: two, because
    methods that learn from differences between members refuse members that are all equal.

    Raises:
        UsageError: If an architecture is unknown, or does not take images of the size.
    """
    networks = {}
    members = []
    uses: Counter[tuple[str, int, int]] = Counter()
    for plan, size in plans:
        kind_of_network = (plan.architecture, len(plan.labels), size)
        seed = uses[kind_of_network] % 2
        uses[kind_of_network] += 1
        kind = (*kind_of_network, seed)
        if kind not in networks:
            arguments = size_arguments(plan.architecture, size)
            network = create_backbone(plan.architecture, len(plan.labels), seed=seed, **arguments).eval()
            require_whole_patches(network, plan.architecture, size)
            with sized(plan.architecture, size), torch.no_grad():
                network(torch.zeros(1, 3, size, size))
            networks[kind] = network
        preprocessing = Preprocessing(size, _HALF, _HALF)
        members.append(PretrainedClassifier(networks[kind], plan.labels, preprocessing, source=plan.name))
    return Zoo.of(members)


def together(zoos: Sequence[Zoo]) -> Zoo:
    """Combine several zoos into one, with the members of all in order."""
    return zoos[0] if len(zoos) == 1 else Zoo.of([member for zoo in zoos for member in zoo])


def obstacle(cell: Cell, zoo: Zoo) -> str | None:
    """Return as one line why a method cannot learn from a zoo; None if it can.

    Args:
        cell: The method and its settings.
        zoo: The cell's zoo, or its stand-in.
    """
    method = find_method(cell.method)(cell.config())
    try:
        method.start(zoo.to(torch.device("cpu")), torch.device("cpu"))
    except DfmlError as error:
        return " ".join(str(error).split())
    return None


def learner_size(cell: Cell, zoo: Zoo) -> int:
    """Side length in pixels at which the learner of a cell works."""
    return zoo.preprocessing(cell.config().img_size).size
