"""Which support images speak for a prediction, and whether an image is unlike all of them: cosines of embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from dfml.images import resize_and_crop
from dfml.learners.classifier import FewShotClassifier
from dfml.learners.embedding import EmbeddingClassifier
from dfml.learners.network_classifier import NetworkClassifier


@dataclass(frozen=True)
class SupportSimilarity:
    """Cosine similarities of test images to the support images of a classifier.

    An image is unlike all classes if its greatest similarity to a support image is below `threshold`, the least that
    any support image has to the other support images. If a test image is drawn like the N support images, its greatest
    similarity is as likely as theirs to be the least of all N + 1 (the argument of conformal prediction: Vovk et al.,
    "Algorithmic Learning in a Random World", 2005), so about one in N + 1 such images is reported by mistake.

    Attributes:
        test_to_support: Cosine of every test image and every support image, between -1 and 1.
        threshold: Leave-one-out similarity: for every support image the greatest cosine to another one; the least of
            these.
    """

    test_to_support: Float[Tensor, "tests support"]
    threshold: float

    def nearest(self, test: int, count: int) -> list[tuple[int, float]]:
        """The support images that a test image is most similar to: (index, cosine), the most similar first."""
        found = self.test_to_support[test].topk(min(count, self.test_to_support.shape[1]))
        return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))


@torch.no_grad()
def support_similarity(
    classifier: FewShotClassifier,
    support: Float[Tensor, "support 3 height width"],
    tests: Float[Tensor, "tests 3 height width"],
) -> SupportSimilarity | None:
    """Compare test images with support images in the feature space that the classifier decides in.

    Args:
        classifier: Classifier that was adapted to the support images.
        support: At least two images in [0, 1].
        tests: Images in [0, 1]; may be none.

    Returns:
        None for a kind of classifier from outside of dfml, whose features are not known.
    """
    known = _embed(classifier, support)
    if known is None:
        return None
    among = (known @ known.T).fill_diagonal_(-2.0)  # below any cosine: an image is not compared with itself
    found = _embed(classifier, tests) if len(tests) else known[:0]
    assert found is not None
    return SupportSimilarity((found @ known.T).cpu(), among.max(dim=1).values.min().item())


def _embed(classifier: FewShotClassifier, images: Tensor) -> Tensor | None:
    """Unit-norm features of images; None if the classifier does not tell them."""
    resized = resize_and_crop(images, classifier.preprocessing.size).to(classifier.device)
    if isinstance(classifier, EmbeddingClassifier):
        features = classifier.learner.embed(resized)
    elif isinstance(classifier, NetworkClassifier):
        inputs = classifier.preprocessing.normalise(resized)
        features, _ = classifier.network.features(classifier.parameters, inputs, classifier.statistics)
    else:
        return None
    return functional.normalize(features.float(), dim=1)
