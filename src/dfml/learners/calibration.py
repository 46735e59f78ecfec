"""ICFIL, inversion calibration following the inner loop (PURER: Hu et al., CVPR 2023, arXiv 2303.11183).

An adapted classifier has seen few images per class (one to five). ICFIL inverts the adapted classifier: images are
optimised until it assigns them to its classes, and form a synthetic support set. Then a contrastive loss moves features
of real and synthetic images of one class together and those of different classes apart.

The paper has a figure and a description, and no code was released: the losses below are our reading of them, and the
settings were chosen on the validation classes of CIFAR-FS (docs/results/components.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from dfml import seeds
from dfml.drawn_images import dead_leaves
from dfml.errors import LearnerError
from dfml.inversion.loss import inversion_loss
from dfml.inversion.views import AnyView, sample_view
from dfml.learners.base import Calibration, MetaLearner
from dfml.learners.calibration_config import ICFILConfig
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network import EpisodeNetwork, Parameters, Statistics
from dfml.learners.network_classifier import NetworkClassifier
from dfml.schedules import half_cosine
from dfml.settings import override
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.statistics import LayerStatistics


class ICFIL(Calibration):
    """Inversion calibration of a classifier that MAML, ANIL or ProtoNet adapted (Hu et al., CVPR 2023).

    Tasks with the same numbers of images and classes are calibrated together, in one `vmap` call per step. ProtoNet's
    prototypes are computed again from the calibrated backbone.

    Args:
        config: All settings; None: `ICFILConfig()`.
        **settings: Settings that override those of `config`, as in `ICFIL(steps=3)`.

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
        tasks_by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for task, (classifier, (images, _)) in enumerate(zip(classifiers, supports, strict=True)):
            tasks_by_shape[len(images), len(classifier.labels)].append(task)
        calibrated: dict[int, FewShotClassifier] = {}
        for tasks in tasks_by_shape.values():
            group = [classifiers[task] for task in tasks]
            # The classifiers of a `GradientLearner` all are; the condition only narrows their type.
            adapted = [classifier.parameters for classifier in group if isinstance(classifier, NetworkClassifier)]
            inputs = torch.stack([learner.preprocessing.normalise(supports[task][0]) for task in tasks])
            labels = torch.stack([supports[task][1] for task in tasks])
            parameters, statistics = calibrate_parameters(
                learner.network,
                learner.preprocessing,
                {name: torch.stack([parameters[name] for parameters in adapted]) for name in adapted[0]},
                inputs,
                labels,
                self.config,
            )
            for row, task in enumerate(tasks):
                refitted = learner.refit_head(
                    {name: value[row].clone() for name, value in parameters.items()},
                    {name: value[row].clone() for name, value in statistics.items()},
                    inputs[row],
                    labels[row],
                )
                calibrated[task] = learner.classifier(*refitted, classifiers[task].labels)
        return [calibrated[task] for task in range(len(classifiers))]


def calibrate_parameters(
    network: EpisodeNetwork,
    preprocessing: Preprocessing,
    parameters: Parameters,
    inputs: Float[Tensor, "tasks support 3 size size"],
    labels: Int64[Tensor, "tasks support"],
    config: ICFILConfig,
) -> tuple[Parameters, Statistics]:
    """Calibrate the adapted weights of several tasks with the same numbers of images and classes.

    Args:
        network: Backbone of all tasks.
        preprocessing: Preprocessing of the network's input.
        parameters: Adapted weights, with a leading axis of tasks.
        inputs: Normalised support images of every task.
        labels: Labels of the support images.
        config: Settings of ICFIL.

    Returns:
        Calibrated weights, and the batch-norm statistics of the support sets in the last pass over them, which precedes
        the last update of the weights; both with a leading axis of tasks.
    """
    way = parameters["head.bias"].shape[1]
    synthetic_labels = torch.arange(way, device=labels.device).repeat_interleave(config.images_per_class)
    synthetic = invert_adapted(network, preprocessing, parameters, inputs, synthetic_labels, config)

    def loss(point: Parameters, real: Tensor, real_labels: Tensor, images: Tensor) -> tuple[Tensor, Statistics]:
        return calibration_loss(network, point, real, real_labels, images, synthetic_labels, config)

    step = torch.vmap(torch.func.grad(loss, has_aux=True))
    statistics: Statistics = {}
    for _ in range(config.steps):
        gradient, statistics = step(parameters, inputs, labels, synthetic)
        parameters = {name: value - config.lr * gradient[name] for name, value in parameters.items()}
    return parameters, statistics


def invert_adapted(
    network: EpisodeNetwork,
    preprocessing: Preprocessing,
    parameters: Parameters,
    inputs: Float[Tensor, "tasks support 3 size size"],
    labels: Int64[Tensor, "synthetic"],
    config: ICFILConfig,
) -> Float[Tensor, "tasks synthetic 3 size size"]:
    """Invert adapted networks (PURER, episode inversion in ICFIL): minimise the inversion loss over synthetic images.

    Args:
        network: Backbone of all tasks.
        preprocessing: Preprocessing of the network's input.
        parameters: Adapted weights, with a leading axis of tasks.
        inputs: Normalised support images, whose batch-norm statistics are the target of the batch-norm term.
        labels: Class of every synthetic image; the same for all tasks.
        config: Settings of ICFIL.

    Returns:
        Synthetic images in normalised space, for every task.
    """
    targets = torch.vmap(lambda weights, real: network.features(weights, real)[1])(parameters, inputs)

    def loss(pixels: Tensor, weights: Parameters, target: Statistics, view: AnyView) -> Tensor:
        model = _AdaptedModel(network, preprocessing, weights, target)
        return inversion_loss(model, pixels, labels, preprocessing, config.weights, view).total

    gradient = torch.vmap(torch.func.grad(loss), in_dims=(0, 0, 0, None))
    initial = initial_pixels(len(labels), preprocessing.size, config).to(inputs)
    pixels = initial.repeat(len(inputs), 1, 1, 1, 1)
    optimiser = torch.optim.Adam([pixels], lr=config.inversion_lr)
    for step in range(config.inversion_steps):
        generator = seeds.generator(config.seed, "calibration", "view", step)
        view = sample_view(config.weights, generator, len(labels), preprocessing.size)
        pixels.grad = gradient(pixels, parameters, targets, view)
        for group in optimiser.param_groups:
            group["lr"] = config.inversion_lr * half_cosine(step / config.inversion_steps)
        optimiser.step()
    return pixels


def calibration_loss(
    network: EpisodeNetwork,
    parameters: Parameters,
    real: Float[Tensor, "support 3 size size"],
    real_labels: Int64[Tensor, "support"],
    synthetic: Float[Tensor, "synthetic 3 size size"],
    synthetic_labels: Int64[Tensor, "synthetic"],
    config: ICFILConfig,
) -> tuple[Float[Tensor, ""], Statistics]:
    """Calibration loss of one task: contrastive loss between both sets, plus the cross-entropy of both.

    Real and synthetic images pass through the shared network one set after the other: each set is normalised with its
    own batch statistics, like the support set in the inner loop.

    Args:
        network: Backbone.
        parameters: Weights of backbone and head; the loss is differentiable in them.
        real: Normalised support images.
        real_labels: Labels of the support images.
        synthetic: Normalised synthetic images.
        synthetic_labels: Labels of the synthetic images.
        config: Settings of ICFIL: weights of both terms, and the temperature.

    Returns:
        The loss, and the batch-norm statistics of the real support set.
    """
    features, statistics = network.features(parameters, real)
    synthetic_features, _ = network.features(parameters, synthetic)
    contrast = contrastive_loss(features, real_labels, synthetic_features, synthetic_labels, config.temperature)
    weight, bias = parameters["head.weight"], parameters["head.bias"]
    errors = [
        functional.cross_entropy(functional.linear(part, weight, bias), labels)
        for part, labels in ((features, real_labels), (synthetic_features, synthetic_labels))
    ]
    return config.contrast * contrast + config.head * (errors[0] + errors[1]), statistics


def contrastive_loss(
    first: Float[Tensor, "first features"],
    first_labels: Int64[Tensor, "first"],
    second: Float[Tensor, "second features"],
    second_labels: Int64[Tensor, "second"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Supervised InfoNCE between two sets of features, in nats: the mean over the first set plus that over the second.

    For one image, take the softmax over all images of the other set, with cosine similarity / temperature as logits.
    Its term is -log of the sum of the probabilities of the images of its own class, which is at least 0.

    Args:
        first: Features of the first set; they are normalised to length 1 here.
        first_labels: Labels of the first set.
        second: Features of the second set.
        second_labels: Labels of the second set; every class must occur in both sets.
        temperature: Divisor of the cosine similarities, greater than 0.
    """
    scores = functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T / temperature
    same_class = scores.masked_fill(first_labels[:, None] != second_labels[None, :], -math.inf)
    from_first, from_second = ((scores.logsumexp(dim=axis) - same_class.logsumexp(dim=axis)).mean() for axis in (1, 0))
    return from_first + from_second


class _AdaptedModel:
    """Adapted network as an `InvertibleModel`, which takes images in [0, 1] and normalises them.

    Batch-norm normalises every batch with its own statistics.

    Args:
        network: Backbone.
        preprocessing: Preprocessing of the network's input.
        parameters: Adapted weights of backbone and head.
        target: Batch-norm statistics of the support set, which take the place of running statistics.
    """

    def __init__(
        self, network: EpisodeNetwork, preprocessing: Preprocessing, parameters: Parameters, target: Statistics
    ) -> None:
        self.size = preprocessing.size
        self._network, self._preprocessing, self._parameters, self._target = network, preprocessing, parameters, target

    def logits(self, images: Float[Tensor, "images 3 size size"]) -> Float[Tensor, "images labels"]:
        return self.logits_and_statistics(images)[0]

    def logits_and_statistics(
        self, images: Float[Tensor, "images 3 size size"]
    ) -> tuple[Float[Tensor, "images labels"], list[LayerStatistics]]:
        features, batch = self._network.features(self._parameters, self._preprocessing.normalise(images))
        layers = [name.removesuffix(".mean") for name in batch if name.endswith(".mean")]
        statistics = [
            LayerStatistics(
                mean=batch[f"{layer}.mean"],
                variance=batch[f"{layer}.variance"],
                running_mean=self._target[f"{layer}.mean"],
                running_variance=self._target[f"{layer}.variance"],
            )
            for layer in layers
        ]
        return functional.linear(features, self._parameters["head.weight"], self._parameters["head.bias"]), statistics


def initial_pixels(count: int, size: int, config: ICFILConfig) -> Float[Tensor, "count 3 size size"]:
    """Sample the pixels that the inversion starts from, in normalised space; the same for all tasks."""
    generator = seeds.generator(config.seed, "calibration", "start")
    if config.start == "dead_leaves":
        return dead_leaves(count, size, generator)
    return torch.randn(count, 3, size, size, generator=generator)
