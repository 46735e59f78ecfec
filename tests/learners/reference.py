"""Plain twins of the learners: torch modules with native batch-norm in training mode, and autograd, step by step.

Native batch-norm is exact here because nothing is vmapped.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from dfml.learners.gradient import GradientLearner
from dfml.tasks.episode import Episode


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
