"""ICFIL, inversion calibration following the inner loop (PURER, CVPR 2023; papers 1.6).

An adapted classifier has seen one to five images a class. What it took them for can be read from itself: images that
it recalls, as a pre-trained classifier would, are a pseudo support set. Then real and pseudo images of one class are
pulled together in its feature space, those of different classes apart, and the head learns both.

No code of it was ever released: the losses are the paper's figure made definite, the settings were chosen here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from dfml import seeds
from dfml.errors import LearnerError
from dfml.inversion.initialisation import dead_leaves
from dfml.inversion.loss import InversionWeights, View, inversion_loss, sample_view
from dfml.learners.base import Calibration, MetaLearner
from dfml.learners.classifier import FewShotClassifier, NetworkClassifier
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import EpisodeNetwork, Parameters, Statistics
from dfml.settings import FrozenSettings, override
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.statistics import LayerStatistics


class ICFILConfig(FrozenSettings):
    """Settings of ICFIL, chosen on the validation classes of CIFAR-FS (docs/results/icfil.md)."""

    images_per_class: PositiveInt = 2
    """Pseudo support images of every class."""
    start: Literal["noise", "dead_leaves"] = "dead_leaves"
    """The first pixels; see `dfml.inversion.ei`."""
    inversion_steps: NonNegativeInt = 40
    inversion_lr: PositiveFloat = 0.1
    """Of Adam, for pixels in normalised space; falls to zero along a half cosine."""
    weights: InversionWeights = InversionWeights()
    """Of the inversion loss. The batch-norm statistics that it aims at are those of the real support set in the adapted
    network: a meta-learner has no running ones."""
    steps: PositiveInt = 5
    """Gradient steps of the calibration."""
    lr: PositiveFloat = 0.01
    """Of these steps, for all weights."""
    contrast: NonNegativeFloat = 1.0
    """Weight of the contrast between real and pseudo features."""
    temperature: PositiveFloat = 0.5
    """Of the contrast."""
    head: NonNegativeFloat = 0.0
    """Weight of the cross-entropy of real and pseudo images, by which the paper calibrates the head too. It cost what
    the contrast had gained."""
    seed: int = 0
    """Of the first pixels and the views. All tasks have the same, so a calibration depends on nothing but its task."""


class ICFIL(Calibration):
    """Calibrates what a gradient-adapted learner (MAML, ANIL, ProtoNet) has adapted.

    Tasks of one shape are calibrated in one mapped call a step.

    Args:
        config: All settings; None: the defaults.
        **settings: Override single settings, as in `ICFIL(steps=3)`.

    Raises:
        ConfigError: If a setting is unknown or has a wrong value.
    """

    name: ClassVar[str] = "icfil"

    def __init__(self, config: ICFILConfig | None = None, **settings: object) -> None:
        self.config = override(config or ICFILConfig(), settings)

    def check(self, learner: MetaLearner) -> None:
        """See `Calibration.check`."""
        if not isinstance(learner, GradientLearner):
            raise LearnerError(
                "icfil calibrates the networks of gradient-adapted learners (maml, anil, protonet), but "
                f"{learner.name} adapts by a fixed embedding; use it without a calibration"
            )

    @torch.no_grad()
    def calibrate(
        self,
        learner: MetaLearner,
        classifiers: Sequence[FewShotClassifier],
        supports: Sequence[tuple[Float[Tensor, "_support 3 size size"], Int64[Tensor, "_support"]]],
    ) -> list[FewShotClassifier]:
        """See `Calibration.calibrate`."""
        self.check(learner)
        assert isinstance(learner, GradientLearner)
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for place, (classifier, (images, _)) in enumerate(zip(classifiers, supports, strict=True)):
            alike[len(images), len(classifier.labels)].append(place)
        found: dict[int, FewShotClassifier] = {}
        for places in alike.values():
            networks = [classifiers[place] for place in places]
            adapted = [network.parameters for network in networks if isinstance(network, NetworkClassifier)]
            parameters, statistics = calibrated(
                learner.network,
                learner.preprocessing,
                {name: torch.stack([parameters[name] for parameters in adapted]) for name in adapted[0]},
                torch.stack([learner.preprocessing.normalise(supports[place][0]) for place in places]),
                torch.stack([supports[place][1] for place in places]),
                self.config,
            )
            for row, place in enumerate(places):
                found[place] = learner.classifier(
                    {name: value[row].clone() for name, value in parameters.items()},
                    {name: value[row].clone() for name, value in statistics.items()},
                    classifiers[place].labels,
                )
        return [found[place] for place in range(len(classifiers))]


def calibrated(
    network: EpisodeNetwork,
    preprocessing: Preprocessing,
    parameters: Parameters,
    inputs: Float[Tensor, "tasks support 3 size size"],
    labels: Int64[Tensor, "tasks support"],
    config: ICFILConfig,
) -> tuple[Parameters, Statistics]:
    """Adapted weights after the calibration, and their support sets' batch-norm statistics at its last step.

    Args:
        network: Of all tasks.
        preprocessing: Of its input.
        parameters: Adapted weights; like all that follows with a leading axis of tasks.
        inputs: Normalised support images.
        labels: Theirs.
        config: See `ICFILConfig`.
    """
    way = parameters["head.bias"].shape[1]
    of_pseudo = torch.arange(way, device=labels.device).repeat_interleave(config.images_per_class)
    pseudo = recall(network, preprocessing, parameters, inputs, of_pseudo, config)

    def loss(point: Parameters, real: Tensor, of_real: Tensor, recalled: Tensor) -> tuple[Tensor, Statistics]:
        return calibration_loss(network, point, real, of_real, recalled, of_pseudo, config)

    step = torch.vmap(torch.func.grad(loss, has_aux=True))
    statistics: Statistics = {}
    for _ in range(config.steps):
        gradient, statistics = step(parameters, inputs, labels, pseudo)
        parameters = {name: value - config.lr * gradient[name] for name, value in parameters.items()}
    return parameters, statistics


def recall(
    network: EpisodeNetwork,
    preprocessing: Preprocessing,
    parameters: Parameters,
    inputs: Float[Tensor, "tasks support 3 size size"],
    labels: Int64[Tensor, "pseudo"],
    config: ICFILConfig,
) -> Float[Tensor, "tasks pseudo 3 size size"]:
    """Episode inversion of adapted networks: normalised images that they take for their classes.

    Args:
        network: Of all tasks.
        preprocessing: Of its input.
        parameters: Adapted weights, with a leading axis of tasks.
        inputs: Normalised support images, whose batch-norm statistics the pseudo images aim at.
        labels: What the pseudo images are to be of; the same for all tasks.
        config: See `ICFILConfig`.
    """
    aims = torch.vmap(lambda weights, real: network.features(weights, real)[1])(parameters, inputs)

    def loss(pixels: Tensor, weights: Parameters, aim: Statistics, view: View) -> Tensor:
        seen = _Adapted(network, preprocessing, weights, aim)
        return inversion_loss(seen, pixels, labels, preprocessing, config.weights, view).total

    step = torch.vmap(torch.func.grad(loss), in_dims=(0, 0, 0, None))
    first = initial_pixels(len(labels), preprocessing.size, config).to(inputs)
    pixels = first.repeat(len(inputs), 1, 1, 1, 1)
    optimiser = torch.optim.Adam([pixels], lr=config.inversion_lr)
    for done in range(config.inversion_steps):
        view = sample_view(config.weights, seeds.generator(config.seed, "calibration", "view", done))
        pixels.grad = step(pixels, parameters, aims, view)
        for group in optimiser.param_groups:
            group["lr"] = config.inversion_lr * 0.5 * (1.0 + math.cos(math.pi * done / config.inversion_steps))
        optimiser.step()
    return pixels


def calibration_loss(
    network: EpisodeNetwork,
    parameters: Parameters,
    real: Float[Tensor, "support 3 size size"],
    of_real: Int64[Tensor, "support"],
    pseudo: Float[Tensor, "pseudo 3 size size"],
    of_pseudo: Int64[Tensor, "pseudo"],
    config: ICFILConfig,
) -> tuple[Float[Tensor, ""], Statistics]:
    """What calibration descends for one task, and the batch-norm statistics of the real support set.

    Real and pseudo images pass through the shared network one set after the other: each normalises itself, as the
    support set does in the inner loop.
    """
    features, statistics = network.features(parameters, real)
    recalled, _ = network.features(parameters, pseudo)
    pull = contrast(features, of_real, recalled, of_pseudo, config.temperature)
    weight, bias = parameters["head.weight"], parameters["head.bias"]
    errors = [
        functional.cross_entropy(functional.linear(each, weight, bias), labels)
        for each, labels in ((features, of_real), (recalled, of_pseudo))
    ]
    return config.contrast * pull + config.head * (errors[0] + errors[1]), statistics


def contrast(
    first: Float[Tensor, "first features"],
    of_first: Int64[Tensor, "first"],
    second: Float[Tensor, "second features"],
    of_second: Int64[Tensor, "second"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Supervised InfoNCE from one set to the other and back (papers 1.6), in nats.

    The probability that an image picks one of its own class, when it picks by exp(cosine / temperature). Every class
    must be in both sets.
    """
    scores = functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T / temperature
    own = scores.masked_fill(of_first[:, None] != of_second[None, :], -math.inf)
    to, back = ((scores.logsumexp(dim=axis) - own.logsumexp(dim=axis)).mean() for axis in (1, 0))
    return to + back


class _Adapted:
    """An adapted network as the inversion loss sees it; a batch normalises itself, as in the inner loop."""

    def __init__(
        self, network: EpisodeNetwork, preprocessing: Preprocessing, parameters: Parameters, aim: Statistics
    ) -> None:
        self.size = preprocessing.size
        self._network, self._preprocessing, self._parameters, self._aim = network, preprocessing, parameters, aim

    def logits(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images labels"]:
        return self.logits_and_statistics(images)[0]

    def logits_and_statistics(
        self, images: Float[Tensor, "images 3 size size"]
    ) -> tuple[Float[Tensor, "images labels"], list[LayerStatistics]]:
        features, seen = self._network.features(self._parameters, self._preprocessing.normalise(images))
        layers = [name.removesuffix(".mean") for name in seen if name.endswith(".mean")]
        statistics = [
            LayerStatistics(
                *(values[f"{layer}.{part}"] for values in (seen, self._aim) for part in ("mean", "variance"))
            )
            for layer in layers
        ]
        return functional.linear(features, self._parameters["head.weight"], self._parameters["head.bias"]), statistics


def initial_pixels(count: int, size: int, config: ICFILConfig) -> Float[Tensor, "count 3 size size"]:
    """Where the inversion starts, in normalised space; the same for all tasks."""
    generator = seeds.generator(config.seed, "calibration", "start")
    if config.start == "dead_leaves":
        return dead_leaves(count, size, generator)
    return torch.randn(count, 3, size, size, generator=generator)
