"""Plain twins of the learners: torch modules with native batch-norm in training mode, and autograd, step by step.

Native batch-norm is exact here because nothing is vmapped.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from dfml.inversion.loss import total_variation
from dfml.learners.calibration import ICFILConfig, initial_pixels
from dfml.learners.classifier import NetworkClassifier
from dfml.learners.episode import Episode
from dfml.learners.gradient_based import GradientLearner


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
    """Second-order (or first-order) MAML on one episode, under the `paper` rule.

    Args:
        learner: Its config says how.
        episode: The task.
        adapted: Prefixes of the weights that adapt; None: all.
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
    """Logits of the queries after the inner loop, normalised by the support set's statistics of its last pass.

    The statistics are taken from the inputs of native batch-norm layers during that pass.
    """
    network = native_network(learner)
    inputs = learner.preprocessing.normalise(episode.support_images)
    seen: list[Tensor] = []
    for _ in range(learner.config.inner_steps):
        seen.clear()
        layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach())) for m in layers]
        loss = functional.cross_entropy(network(inputs), episode.support_labels)
        for handle in handles:
            handle.remove()
        values = list(network.parameters())
        for value, gradient in zip(values, torch.autograd.grad(loss, values), strict=True):
            value.data -= learner.config.inner_lr * gradient
    judge = copy.deepcopy(network).eval()
    layers = [m for m in judge.modules() if isinstance(m, nn.BatchNorm2d)]
    for layer, x in zip(layers, seen, strict=True):
        layer.track_running_stats = True
        layer.running_mean, layer.running_var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
    return judge(learner.preprocessing.normalise(episode.query_images))


def icfil(
    learner: GradientLearner, classifier: NetworkClassifier, images: Tensor, labels: Tensor, config: ICFILConfig
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Calibration of one task: recall images, then gradient steps, with native batch-norm that normalises each batch.

    Without views of the images. Contrast as a double loop over images.

    Returns:
        The weights, and the inputs of the batch-norm layers for the support set at the last step.
    """
    network = native_network(learner)
    network.get_classifier().weight.data = classifier.parameters["head.weight"].clone()
    network.get_classifier().bias.data = classifier.parameters["head.bias"].clone()
    weights = {name.removeprefix("backbone."): value for name, value in classifier.parameters.items()}
    network.load_state_dict(weights, strict=False)
    seen: list[Tensor] = []
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))

    def forward(inputs: Tensor) -> tuple[Tensor, Tensor]:
        seen.clear()
        features = network.forward_head(network.forward_features(inputs), pre_logits=True)
        return features, network.get_classifier()(features)

    def moments() -> list[Tensor]:
        return [part for x in seen for part in (x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False))]

    real = learner.preprocessing.normalise(images)
    forward(real)
    aims = [moment.detach() for moment in moments()]
    of_pseudo = torch.arange(len(classifier.labels)).repeat_interleave(config.images_per_class)
    pseudo = initial_pixels(len(of_pseudo), learner.preprocessing.size, config).to(real).requires_grad_()
    optimiser = torch.optim.Adam([pseudo], lr=config.inversion_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.inversion_steps)
    for _ in range(config.inversion_steps):
        _, logits = forward(pseudo)
        distance = sum(torch.linalg.vector_norm(a - b) for a, b in zip(moments(), aims, strict=True))
        loss = config.weights.label * functional.cross_entropy(logits, of_pseudo) + config.weights.batch_norm * distance
        loss = loss + config.weights.total_variation * total_variation(pseudo)
        loss = loss + config.weights.l2 * torch.linalg.vector_norm(pseudo)
        (pseudo.grad,) = torch.autograd.grad(loss, pseudo)
        optimiser.step()
        schedule.step()
    pseudo = pseudo.detach()
    at_last: list[Tensor] = []
    for _ in range(config.steps):
        features, logits = forward(real)
        at_last = [x.detach() for x in seen]
        recalled, of_recalled = forward(pseudo)
        loss = config.contrast * contrast_by_hand(features, labels, recalled, of_pseudo, config.temperature)
        loss = loss + config.head * functional.cross_entropy(logits, labels)
        loss = loss + config.head * functional.cross_entropy(of_recalled, of_pseudo)
        values = list(network.parameters())
        for value, gradient in zip(values, torch.autograd.grad(loss, values), strict=True):
            value.data -= config.lr * gradient
    if learner.kind == "protonet":  # its head is a function of the backbone
        features, _ = forward(real)
        at_last = [x.detach() for x in seen]
        means = torch.stack([features[labels == label].mean(dim=0) for label in range(len(classifier.labels))])
        network.get_classifier().weight.data = 2.0 * means.detach()
        network.get_classifier().bias.data = -means.detach().square().sum(dim=1)
    return {n if n.startswith("head.") else f"backbone.{n}": v.detach() for n, v in network.named_parameters()}, at_last


def contrast_by_hand(first: Tensor, of_first: Tensor, second: Tensor, of_second: Tensor, temperature: float) -> Tensor:
    """Supervised InfoNCE, image by image, in both directions."""
    total = first.new_zeros(())
    for these, of_these, those, of_those in (first, of_first, second, of_second), (second, of_second, first, of_first):
        for image, label in zip(these, of_these, strict=True):
            picks = torch.exp(functional.cosine_similarity(image[None], those) / temperature)
            total = total - torch.log(picks[of_those == label].sum() / picks.sum()) / len(these)
    return total
