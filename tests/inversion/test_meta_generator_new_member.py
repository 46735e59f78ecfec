"""A meta-trained generator recovers a member outside of its zoo better in the same number of steps."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from dfml.backbones import create_backbone
from dfml.data.dataset import ImageDataset
from dfml.inversion.engine import Target
from dfml.inversion.loss import InversionWeights
from dfml.inversion.meta_generator import MetaGenerator
from dfml.zoo import PretrainedClassifier
from tests.factories import PREPROCESSING, SIZE, coloured_dataset
from tests.inversion.small import five, run_round, target


def trained(seed: int, data: ImageDataset) -> PretrainedClassifier:
    """A classifier trained to distinguish the colours, from initial weights that depend on the seed."""
    classes = range(len(data.classes))
    network = create_backbone("conv4", len(classes), seed=seed, img_size=SIZE).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    rows = torch.cat([(data.labels == label).nonzero()[:, 0] for label in classes])
    inputs = PREPROCESSING.normalise(data.images[rows].float() / 255)
    labels = torch.arange(len(classes)).repeat_interleave(len(rows) // len(classes))
    for _ in range(15):
        optimiser.zero_grad()
        loss = functional.cross_entropy(network(inputs), labels)
        loss.backward()
        optimiser.step()
    assert loss < 0.05
    return PretrainedClassifier(network, tuple(data.classes[label] for label in classes), PREPROCESSING)


def cross_entropy(engine: MetaGenerator, new_member: Target) -> float:
    """Cross-entropy of the images after the engine's own number of steps, mean of three rounds."""
    found = [run_round(engine, [new_member], number).images()[0] for number in (100, 101, 102)]
    losses = [functional.cross_entropy(new_member.classifier.logits(images), new_member.labels) for images in found]
    return float(torch.stack(losses).mean())


@pytest.mark.numeric
def test_a_generator_trained_on_other_members_has_a_lower_loss_on_a_new_member() -> None:
    """All members have the same classes: two members are too few to learn about other classes."""
    data = coloured_dataset(classes=3)
    first, second, new_member = (target(f"member {seed}", trained(seed, data), per_class=4) for seed in range(3))
    weights = InversionWeights(batch_norm=0.0, total_variation=0.0, l2=0.0, jitter=0)
    engine = five(weights=weights, lr=0.001, latent_lr=0.003, outer_lr=0.005, label_input=1.0)
    untrained = cross_entropy(engine, new_member)
    for number in range(16):
        engine.learn(run_round(engine, [first, second], number))
    assert cross_entropy(engine, new_member) < 0.6 * untrained  # at most 0.25 over seeds
