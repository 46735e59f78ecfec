"""The gradient of the inversion loss with bounded memory: exact, however few images are in one backward pass.

Some terms depend on the whole batch: batch-norm statistics are means over all images. So the batch is passed through
the model twice. The first pass, without a graph, predicts chunk by chunk; the loss and its gradient with respect to
these predictions follow. The second pass takes each chunk's share of that gradient back to its pixels. This is the
gradient of the whole batch up to rounding, for any term; it costs one more forward pass. The idea is that of gradient
caching for contrastive losses (Gao et al., RepL4NLP 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml.inversion.image_cost import bytes_per_image
from dfml.inversion.loss import (
    InversionLoss,
    InversionWeights,
    InvertibleModel,
    Predictions,
    StudentLogits,
    combine_terms,
    inversion_loss,
    predict,
)
from dfml.inversion.views import AnyView
from dfml.zoo.pretrained import Preprocessing
from dfml.zoo.statistics import LayerStatistics


def inversion_gradient(
    classifier: InvertibleModel,
    pixels: Float[Tensor, "images 3 size size"],
    labels: Int64[Tensor, "images"],
    preprocessing: Preprocessing,
    weights: InversionWeights,
    view: AnyView,
    *,
    student: StudentLogits | None = None,
    previous_statistics: Sequence[Tensor] = (),
    chunk: int | None = None,
) -> tuple[InversionLoss, Float[Tensor, "images 3 size size"]]:
    """Compute the inversion loss and its gradient with respect to the pixels.

    Args:
        classifier: The model that the images are recovered from.
        pixels: Images in normalised space; their graph, if they have one, is not used.
        labels: See `dfml.inversion.loss.inversion_loss`.
        preprocessing: See there.
        weights: See there.
        view: See there.
        student: See there.
        previous_statistics: See there.
        chunk: Largest number of images in one backward pass; None: all.

    Returns:
        The loss, detached, and the gradient.
    """
    if chunk is None or len(pixels) <= chunk:
        leaf = pixels.detach().requires_grad_()
        loss = inversion_loss(
            classifier,
            leaf,
            labels,
            preprocessing,
            weights,
            view,
            student=student,
            previous_statistics=previous_statistics,
        )
        (gradient,) = torch.autograd.grad(loss.total, leaf)
        return loss.detach(), gradient

    predict_pixels = partial(_predict, classifier, preprocessing, weights, student)
    with torch.no_grad():
        shifted = view.apply(pixels.detach())
        parts = [predict_pixels(part) for part in torch.split(shifted, chunk)]
        sizes = [len(part.logits) for part in parts]
        predictions = _merge(parts, sizes)
    leaf = shifted.clone().requires_grad_()
    leaves = _require_gradients(predictions)
    loss = combine_terms(leaf, preprocessing, labels, predictions, weights, previous_statistics)
    gradient, *upstream = torch.autograd.grad(loss.total, [leaf, *leaves], materialize_grads=True, allow_unused=True)
    gradient = gradient.clone()  # it may be an expanded tensor, which cannot be added to
    for part, start in zip(torch.split(shifted, chunk), range(0, len(shifted), chunk), strict=True):
        own = slice(start, start + len(part))
        with torch.enable_grad():
            part_leaf = part.clone().requires_grad_()
            outputs = predict_pixels(part_leaf)
        targets, gradients = _share(outputs, predictions, upstream, own, len(part) / len(shifted))
        (part_gradient,) = torch.autograd.grad(targets, part_leaf, gradients)
        gradient[own] += part_gradient
    return loss.detach(), _undo_view(gradient, view)


def chunked_inversion_loss(
    classifier: InvertibleModel,
    pixels: Float[Tensor, "images 3 size size"],
    labels: Int64[Tensor, "images"],
    preprocessing: Preprocessing,
    weights: InversionWeights,
    view: AnyView,
    *,
    chunk: int,
    **others: Any,
) -> InversionLoss:
    """Compute the inversion loss as `inversion_loss` does, but with at most `chunk` images in one backward pass.

    The gradient with respect to the pixels is computed at once; what the pixels were made by (a generator) gets it when
    the returned total is differentiated, which is possible once. With no more images than `chunk`, this is
    `inversion_loss` itself.

    Args:
        classifier: See `inversion_loss`.
        pixels: See there; their graph is kept.
        labels: See there.
        preprocessing: See there.
        weights: See there.
        view: See there.
        chunk: Largest number of images in one backward pass.
        **others: `student` and `previous_statistics`; see there.
    """
    if len(pixels) <= chunk:
        return inversion_loss(classifier, pixels, labels, preprocessing, weights, view, **others)
    loss, gradient = inversion_gradient(classifier, pixels, labels, preprocessing, weights, view, chunk=chunk, **others)
    total: Tensor = _KnownGradient.apply(pixels, loss.total, gradient)
    return replace(loss, total=total)


class _KnownGradient(torch.autograd.Function):
    """A value whose gradient with respect to the pixels has been computed before."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream[0] * gradient, None, None


def _predict(
    classifier: InvertibleModel,
    preprocessing: Preprocessing,
    weights: InversionWeights,
    student: StudentLogits | None,
    shifted: Tensor,
) -> Predictions:
    return predict(classifier, preprocessing.denormalise(shifted), weights, student=student)


def _merge(parts: Sequence[Predictions], sizes: Sequence[int]) -> Predictions:
    """Predictions of a batch from those of its chunks."""
    shares = [size / sum(sizes) for size in sizes]
    statistics = []
    for layers in zip(*(part.statistics for part in parts), strict=True):
        mean = sum((share * layer.mean for share, layer in zip(shares, layers, strict=True)), torch.zeros(()))
        variance = sum(
            (
                share * (layer.variance + (layer.mean - mean).square())
                for share, layer in zip(shares, layers, strict=True)
            ),
            torch.zeros(()),
        )
        statistics.append(replace(layers[0], mean=mean, variance=variance))
    student = [part.student_logits for part in parts if part.student_logits is not None]
    return Predictions(torch.cat([part.logits for part in parts]), statistics, torch.cat(student) if student else None)


def _require_gradients(predictions: Predictions) -> list[Tensor]:
    """Make all tensors of the predictions leaves that require gradients; return them in the order of `_share`."""
    leaves = [predictions.logits, *(part for layer in predictions.statistics for part in (layer.mean, layer.variance))]
    if predictions.student_logits is not None:
        leaves.append(predictions.student_logits)
    return [leaf.requires_grad_() for leaf in leaves]


def _share(
    outputs: Predictions, batch: Predictions, upstream: Sequence[Tensor], own: slice, share: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of one chunk that depend on its pixels, and the gradients of the batch's loss with respect to them.

    The batch's mean is the weighted mean of the chunks' means; its variance that of their variances and of the squared
    distances of their means from it. The share of a chunk in both follows by the chain rule.
    """
    targets, gradients = [outputs.logits], [upstream[0][own]]
    for index, layer in enumerate(outputs.statistics):
        mean_gradient, variance_gradient = upstream[1 + 2 * index], upstream[2 + 2 * index]
        whole: LayerStatistics = batch.statistics[index]
        distance = layer.mean.detach() - whole.mean.detach()
        targets += [layer.mean, layer.variance]
        gradients += [share * (mean_gradient + 2.0 * distance * variance_gradient), share * variance_gradient]
    if outputs.student_logits is not None and outputs.student_logits.requires_grad:
        targets.append(outputs.student_logits)
        gradients.append(upstream[-1][own])
    return targets, gradients


def _undo_view(gradient: Tensor, view: AnyView) -> Tensor:
    """Gradient with respect to the pixels before the view; it does not depend on their values: a view is affine."""
    with torch.enable_grad():
        leaf = torch.zeros_like(gradient).requires_grad_()
        seen = view.apply(leaf)
    (before,) = torch.autograd.grad(seen, leaf, gradient) if seen is not leaf else (gradient,)
    return before


def images_per_pass(classifier: InvertibleModel, pixels: Float[Tensor, "images 3 size size"], memory: int) -> int:
    """Number of images whose forward and backward pass takes about `memory` bytes; at least 1.

    An image takes the tensors that a forward pass keeps for the backward pass, which are measured once per architecture
    and image size, and half as much again for the gradients in flight.

    Args:
        classifier: The model.
        pixels: Images in normalised space, of the size and type that are to be optimised.
        memory: Bytes.
    """
    size = bytes_per_image(classifier, pixels.shape[-1], pixels.dtype)
    return max(1, int(memory / (1.5 * size))) if size else len(pixels)
