"""Plain references of the learners: torch modules with native batch-norm in training mode, and autograd per step.

Native batch-norm is exact here because nothing is vmapped.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from dfml.inversion.term_values import total_variation
from dfml.learners.calibration import ICFILConfig, initial_pixels
from dfml.learners.episode import Episode
from dfml.learners.gradient_based import GradientLearner
from dfml.learners.network_classifier import NetworkClassifier


def native_network(learner: GradientLearner) -> nn.Module:
    """The learner's backbone and head as one ordinary module, without running statistics."""
    from dfml.backbones import create_backbone

    network = create_backbone("conv4", learner.way, img_size=learner.preprocessing.size).double()
    weights = {name.removeprefix("backbone."): value.detach().clone() for name, value in learner.parameters.items()}
    network.load_state_dict(weights, strict=False)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = None
    return network.train()


def query_loss_and_gradient(
    learner: GradientLearner, episode: Episode, adapted: tuple[str, ...] | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the outer loss of MAML or ANIL on one episode by the rule `paper`, and its gradient to every weight.

    Args:
        learner: Learner whose weights and config are used.
        episode: Task.
        adapted: Prefixes of the weights that the inner loop adapts; None, all.
    """
    network = native_network(learner)
    start = dict(network.named_parameters())
    fast = dict(start)
    inputs = learner.preprocessing.normalise(episode.support_images)
    queries = learner.preprocessing.normalise(episode.query_images)
    second = learner.config.second_order
    for _ in range(learner.config.inner_steps):
        names = [name for name in fast if adapted is None or name.startswith(adapted)]
        point = fast if second else {name: value.detach().requires_grad_() for name, value in fast.items()}
        loss = functional.cross_entropy(torch.func.functional_call(network, point, (inputs,)), episode.support_labels)
        gradients = torch.autograd.grad(loss, [point[name] for name in names], create_graph=second)
        moved = {n: fast[n] - learner.config.inner_lr * g for n, g in zip(names, gradients, strict=True)}
        fast = {**fast, **moved}
    logits = torch.func.functional_call(network, fast, (queries,))
    loss = functional.cross_entropy(logits, episode.query_labels)
    gradients = torch.autograd.grad(loss, list(start.values()), materialize_grads=True, allow_unused=True)
    named = {
        name if name.startswith("head.") else f"backbone.{name}": g for name, g in zip(start, gradients, strict=True)
    }
    return loss, named


def strict_logits(learner: GradientLearner, episode: Episode) -> Tensor:
    """Compute query logits after the inner loop by the rule `strict`.

    Query images are normalised with the statistics of the last pass over the support set, which are taken from the
    inputs of native batch-norm layers during that pass.
    """
    network = native_network(learner)
    inputs = learner.preprocessing.normalise(episode.support_images)
    recorded: list[Tensor] = []
    for _ in range(learner.config.inner_steps):
        recorded.clear()
        layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        handles = [m.register_forward_pre_hook(lambda _, args: recorded.append(args[0].detach())) for m in layers]
        loss = functional.cross_entropy(network(inputs), episode.support_labels)
        for handle in handles:
            handle.remove()
        values = list(network.parameters())
        for value, gradient in zip(values, torch.autograd.grad(loss, values), strict=True):
            value.data -= learner.config.inner_lr * gradient
    evaluated = copy.deepcopy(network).eval()
    layers = [m for m in evaluated.modules() if isinstance(m, nn.BatchNorm2d)]
    for layer, x in zip(layers, recorded, strict=True):
        layer.track_running_stats = True
        layer.running_mean, layer.running_var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
    return evaluated(learner.preprocessing.normalise(episode.query_images))


def icfil(
    learner: GradientLearner, classifier: NetworkClassifier, images: Tensor, labels: Tensor, config: ICFILConfig
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Calibrate one task with native batch-norm: inversion, then gradient steps; without views of the images.

    The contrastive loss is a double loop over images.

    Returns:
        The weights, and the inputs of the batch-norm layers for the support set in the last pass over it.
    """
    network = native_network(learner)
    network.get_classifier().weight.data = classifier.parameters["head.weight"].clone()
    network.get_classifier().bias.data = classifier.parameters["head.bias"].clone()
    weights = {name.removeprefix("backbone."): value for name, value in classifier.parameters.items()}
    network.load_state_dict(weights, strict=False)
    recorded: list[Tensor] = []
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, args: recorded.append(args[0]))

    def forward(inputs: Tensor) -> tuple[Tensor, Tensor]:
        recorded.clear()
        features = network.forward_head(network.forward_features(inputs), pre_logits=True)
        return features, network.get_classifier()(features)

    def moments() -> list[Tensor]:
        return [part for x in recorded for part in (x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False))]

    real = learner.preprocessing.normalise(images)
    forward(real)
    targets = [moment.detach() for moment in moments()]
    synthetic_labels = torch.arange(len(classifier.labels)).repeat_interleave(config.images_per_class)
    synthetic = initial_pixels(len(synthetic_labels), learner.preprocessing.size, config).to(real).requires_grad_()
    optimiser = torch.optim.Adam([synthetic], lr=config.inversion_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.inversion_steps)
    for _ in range(config.inversion_steps):
        _, logits = forward(synthetic)
        distance = sum(torch.linalg.vector_norm(a - b) for a, b in zip(moments(), targets, strict=True))
        loss = (
            config.weights.label * functional.cross_entropy(logits, synthetic_labels)
            + config.weights.batch_norm * distance
        )
        loss = loss + config.weights.total_variation * total_variation(synthetic)
        loss = loss + config.weights.l2 * torch.linalg.vector_norm(synthetic)
        (synthetic.grad,) = torch.autograd.grad(loss, synthetic)
        optimiser.step()
        schedule.step()
    synthetic = synthetic.detach()
    last_inputs: list[Tensor] = []
    for _ in range(config.steps):
        features, logits = forward(real)
        last_inputs = [x.detach() for x in recorded]
        synthetic_features, synthetic_logits = forward(synthetic)
        loss = config.contrast * contrast_by_hand(
            features, labels, synthetic_features, synthetic_labels, config.temperature
        )
        loss = loss + config.head * functional.cross_entropy(logits, labels)
        loss = loss + config.head * functional.cross_entropy(synthetic_logits, synthetic_labels)
        values = list(network.parameters())
        for value, gradient in zip(values, torch.autograd.grad(loss, values), strict=True):
            value.data -= config.lr * gradient
    if learner.kind == "protonet":  # its head is a function of the backbone
        features, _ = forward(real)
        last_inputs = [x.detach() for x in recorded]
        means = torch.stack([features[labels == label].mean(dim=0) for label in range(len(classifier.labels))])
        network.get_classifier().weight.data = 2.0 * means.detach()
        network.get_classifier().bias.data = -means.detach().square().sum(dim=1)
    return {
        n if n.startswith("head.") else f"backbone.{n}": v.detach() for n, v in network.named_parameters()
    }, last_inputs


def contrast_by_hand(
    first: Tensor, first_labels: Tensor, second: Tensor, second_labels: Tensor, temperature: float
) -> Tensor:
    """Compute the supervised InfoNCE loss image by image, in both directions."""
    total = first.new_zeros(())
    directions = (first, first_labels, second, second_labels), (second, second_labels, first, first_labels)
    for anchors, anchor_labels, others, other_labels in directions:
        for anchor, label in zip(anchors, anchor_labels, strict=True):
            similarities = torch.exp(functional.cosine_similarity(anchor[None], others) / temperature)
            positive = similarities[other_labels == label].sum()
            total = total - torch.log(positive / similarities.sum()) / len(anchors)
    return total
