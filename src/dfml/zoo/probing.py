"""Checks of a single member with a few synthetic images: constant predictions, and unlikely normalisation.

Without training images only this can be checked of a member alone: whether its predictions depend on the image, and
whether images in [0, 1], normalised as its configuration says, have the contrast that it was trained on. A member at
chance level or with exchanged labels passes; only a comparison with other members reveals it
(`dfml.inversion.agreement`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dfml.seeds import generator
from dfml.zoo.pretrained import PretrainedClassifier

_PER_KIND = 6  # images per entry of `_CELLS`, and images of noise
_CELLS = (2, 4, 8)  # gradients are interpolated from so many random colours per side

CONSTANT = 0.01
"""Predictions are constant if every log-probability has a standard deviation over images below this, in nats: its odds
differ by less than 1%. The smallest value of 218 trained members (5 to 64 classes, accuracy 37 to 95%) is 1.6."""

# Standard deviation of the first batch-norm layer's input for the probe images, relative to the running one, median
# over channels: from 0.66 (letters) to 1.9 in 245 trained members; 0.39 in a member that says mean 0 and std 1 and was
# trained with those of CIFAR, 100 in one that was trained on pixels from 0 to 255. Images of less contrast than the
# probes are common, of much more contrast hardly possible: the probes reach black and white.
_LEAST_CONTRAST, _MOST_CONTRAST = 0.5, 10.0


def probe_images(size: int) -> Float[Tensor, "images 3 size size"]:
    """Return 32 fixed images in [0, 1]: the 8 corners of the colour cube, 18 colour gradients, 6 of uniform noise.

    Args:
        size: Height and width in pixels.
    """
    draws = generator(0, "probe images")
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)[:, :, None, None].expand(-1, 3, size, size)
    gradients = [
        functional.interpolate(torch.rand(_PER_KIND, 3, cells, cells, generator=draws), size=size, mode="bilinear")
        for cells in _CELLS
    ]
    return torch.cat([corners, *gradients, torch.rand(_PER_KIND, 3, size, size, generator=draws)])


def predictions_are_constant(logits: Float[Tensor, "images outputs"]) -> bool:
    """Whether a member predicts the same probabilities for all images (see `CONSTANT`).

    Args:
        logits: Logits or log-probabilities, finite, of different images. False for fewer than two images or outputs.
    """
    log_probabilities = logits.log_softmax(dim=1)
    return logits.shape[1] > 1 and len(logits) > 1 and bool(log_probabilities.std(dim=0).max() < CONSTANT)


@torch.no_grad()
def probe_warnings(classifier: PretrainedClassifier) -> list[str]:
    """Defects of a member that its predictions and its first batch-norm layer reveal on `probe_images`.

    Args:
        classifier: The member.

    Returns:
        One line per defect; empty if none is found.
    """
    device = next((parameter.device for parameter in classifier.parameters()), torch.device("cpu"))
    images = probe_images(classifier.size).to(device)
    logits, statistics = classifier.logits_and_statistics(images)
    if not bool(torch.isfinite(logits).all()):
        return ["its logits for synthetic images are not finite"]
    if predictions_are_constant(logits):
        return [f"its predictions are the same for {len(images)} very different synthetic images"]
    if not statistics:
        return []
    first = statistics[0]
    trained = first.running_variance > first.eps
    if not bool(trained.any()):
        return []  # reported as running variances of zero
    ratios = (first.variance[trained] / first.running_variance[trained]).clamp_min(0).sqrt()
    contrast = float(ratios.median())
    if _LEAST_CONTRAST <= contrast <= _MOST_CONTRAST:
        return []
    return [
        f"synthetic images in [0, 1] have {contrast:.2g} times the deviation of its training images in its first "
        f"batch-norm layer (usual: 0.6 to 2): check that it was trained with its mean {classifier.preprocessing.mean} "
        f"and std {classifier.preprocessing.std}"
    ]
