"""Labels of the latent vectors that a generator starts from: a code within the vector, or an assignment by the member.

Without either (FREE) a vector has its label by chance, and the first steps move its image to another class.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dfml import seeds

_NO_SCORE = -1e9  # in place of a log-probability that is not finite; such a member is excluded after its steps


def label_codes(labels: Int64[Tensor, " images"], length: int) -> Float[Tensor, "images {length}"]:
    """The fixed code of every label, on the CPU: standard normal values that belong to the output's index.

    They are the same whatever the seed of a run: a generator that one run has trained knows these codes, and another
    run may use it (`dfml invert --from`).

    Args:
        labels: Outputs of a member.
        length: Length of a latent vector.
    """
    codes = {
        output: torch.randn(length, generator=seeds.generator(0, "code", output)) for output in set(labels.tolist())
    }
    return torch.stack([codes[output] for output in labels.tolist()])


def assign_to_labels(
    logits: Float[Tensor, "candidates outputs"], labels: Int64[Tensor, " images"]
) -> Int64[Tensor, " images"]:
    """Choose a different candidate for every label, so that their log-probabilities have the largest sum.

    This is the assignment problem (Kuhn 1955, the Hungarian method).

    Args:
        logits: The member's logits for the images of all candidates; at least as many candidates as labels.
        labels: Outputs of the member that images are to be recovered as.

    Returns:
        For every label the index of its candidate.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    scores = logits.log_softmax(dim=1)[:, labels].T.double()
    scores = scores.nan_to_num(nan=_NO_SCORE, posinf=_NO_SCORE, neginf=_NO_SCORE)
    _, chosen = linear_sum_assignment(scores.cpu().numpy(), maximize=True)
    return torch.as_tensor(chosen, device=labels.device)
