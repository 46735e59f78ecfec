"""Properties of every engine: one round, its images, and the state that is kept for the next round."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from dfml.inversion.engine import Target, recover
from dfml.inversion.loss import InversionWeights, inversion_loss
from dfml.inversion.registry import InversionConfig, create_engine, engine_names
from dfml.inversion.views import View
from dfml.training.checkpoint import State, load_checkpoint, save_checkpoint
from dfml.zoo import Preprocessing, PretrainedClassifier
from tests.factories import PREPROCESSING
from tests.inversion.small import (
    CoarseStudent,
    conv,
    losses,
    precision,
    resnet,
    run_round,
    small_engine,
    target,
    targets,
)

GENERATORS = [name for name in engine_names() if name not in ("ei", "consensus")]
LABELS_ONLY = InversionWeights(batch_norm=0.0, total_variation=0.0, l2=0.0, jitter=0)

every_engine = pytest.mark.parametrize("name", engine_names())


@pytest.fixture
def _double() -> Iterator[None]:
    with precision(torch.float64):
        yield


def two_class_member(size: int) -> PretrainedClassifier:
    """A member with two classes, and with a size and a normalisation of its own."""
    return conv(7, ("d", "e"), Preprocessing(size, (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)))


def test_all_engines_have_a_section_of_settings() -> None:
    assert set(engine_names()) == {"five", "fast_dfkd", "cmi", "zeroth_order", "ei", "consensus"}
    assert set(InversionConfig.model_fields) == {
        "engine",
        "budget",
        "classes_per_round",
        "confirmed_only",
        "fallback",
        "memory",
        *engine_names(),
    }
    for name in engine_names():
        config = InversionConfig(engine=name)
        section = getattr(config, name)
        expected = section.steps + getattr(section, "search_steps", 0)  # `ei` and `consensus` search first
        assert create_engine(config, PREPROCESSING).steps == expected


@every_engine
@pytest.mark.numeric
def test_the_cross_entropy_falls(name: str) -> None:
    engine = small_engine(name, weights=LABELS_ONLY)
    inversion = engine.start(targets([0, 1], per_class=4))
    first, *_, last = losses(inversion, engine.steps)
    assert inversion.done == engine.steps
    for before, after in zip(first, last, strict=True):
        assert after.label < before.label


@every_engine
def test_images_are_between_zero_and_one_and_attached_to_no_graph(name: str) -> None:
    for images in recover(small_engine(name), targets([0, 1])):
        assert images.shape == (6, 3, 16, 16)
        assert not images.requires_grad
        assert 0 <= images.min() < images.max() <= 1


@every_engine
def test_a_repeated_round_gives_the_same_bits_and_another_round_different_images(name: str) -> None:
    engine = small_engine(name, steps=2)
    first, again, other = (recover(engine, targets([0, 1]), number)[1] for number in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first, recover(small_engine(name, steps=2, seed=1), targets([0, 1]), 3)[1])


@every_engine
@pytest.mark.usefixtures("_double")
@pytest.mark.numeric
def test_targets_of_one_round_do_not_depend_on_each_other(name: str) -> None:
    """In the released code of FREE, all members of one round are the network that was loaded last."""
    chosen = [
        target("conv", conv(0)),
        target("other conv", conv(1), per_class=3),
        target("resnet", resnet(2)),
        target("lopsided", two_class_member(20)),
    ]
    together = recover(small_engine(name, steps=3), chosen)
    for each, images in zip(chosen, together, strict=True):
        (alone,) = recover(small_engine(name, steps=3), [each])
        torch.testing.assert_close(images, alone)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.numeric
def test_the_loss_of_every_target_comes_from_its_own_member(name: str) -> None:
    """First loss of members of two architectures; the released code of FREE uses the last network for all of them."""
    chosen = [target("conv", conv(0)), target("resnet", resnet(2)), target("last", conv(1))]
    inversion = small_engine(name, weights=LABELS_ONLY).start(chosen)
    images = inversion.images()
    for each, shown, found in zip(chosen, images, inversion.step(), strict=True):
        expected = functional.cross_entropy(each.classifier.logits(shown), each.labels)
        torch.testing.assert_close(found.label, expected)


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.numeric
def test_a_member_of_another_size_classifies_the_whole_image(name: str, size: int) -> None:
    """In the released code of FREE, the member classifies a crop, while the whole image is stored."""
    generated = Preprocessing(20, PREPROCESSING.mean, PREPROCESSING.std)
    classifier = two_class_member(size)
    inversion = small_engine(name, generated, weights=LABELS_ONLY).start([target("other", classifier)])
    (images,) = inversion.images()
    assert images.shape[-1] == 20
    (found,) = inversion.step()
    resized = functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    expected = functional.cross_entropy(classifier.logits(resized), inversion.targets[0].labels)
    torch.testing.assert_close(found.label, expected)


def test_optimised_pixels_have_the_size_of_the_member() -> None:
    (images,) = recover(small_engine("ei", steps=1), [target("larger", two_class_member(24))])
    assert images.shape == (4, 3, 24, 24)


@every_engine
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.numeric
def test_a_broken_member_does_not_change_the_others(name: str, stacked: bool) -> None:
    chosen = targets([0, 1, 2])
    expected = recover(small_engine(name, steps=3, stacked=stacked), chosen)
    broken = conv(1)
    next(broken.network.parameters())[0] = torch.nan
    chosen[1] = target("member 1", broken)
    engine = small_engine(name, steps=3, stacked=stacked)
    inversion = run_round(engine, chosen)
    images = inversion.images()
    if name != "consensus":  # other members may share the images, so it leaves out gradients that are not finite
        assert images[1].isnan().any()
    torch.testing.assert_close(images[0], expected[0])
    torch.testing.assert_close(images[2], expected[2])
    engine.learn(inversion, kept=[0, 2])
    assert not any(value.isnan().any() for value in engine.state_dict().values())


@every_engine
@pytest.mark.usefixtures("_double")
@pytest.mark.numeric
def test_images_are_those_after_the_last_step(name: str) -> None:
    """In the released code of FREE, the returned images are generated before the last update."""
    narrow = Preprocessing(16, (0.5, 0.5, 0.5), (0.05, 0.05, 0.05))  # no pixel is clipped
    classifier = conv(0, preprocessing=narrow)
    # Steps of Adam along the signs of the gradient, so short that the loss must fall.
    rates = {"lr": 1e-4} if name in ("ei", "consensus") else {"lr": 1e-5, "latent_lr": 1e-5}
    engine = small_engine(name, narrow, weights=LABELS_ONLY, **rates)
    inversion = engine.start([target("member", classifier)])
    reported, recomputed = [], []
    for _ in range(4):
        (loss,) = inversion.step()
        reported.append(float(loss.label))
        pixels = narrow.normalise(inversion.images()[0])
        labels = inversion.targets[0].labels
        recomputed.append(float(inversion_loss(classifier, pixels, labels, narrow, LABELS_ONLY, View()).label))
    assert recomputed[:-1] == pytest.approx(reported[1:], rel=1e-9)
    assert all(after < before for before, after in zip(reported, recomputed, strict=True))


@every_engine
def test_a_run_resumed_from_a_checkpoint_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    def run_rounds(engine_name: str, tensors: dict[str, torch.Tensor] | None, numbers: range) -> list[torch.Tensor]:
        engine = small_engine(engine_name, steps=2)
        if tensors is not None:
            engine.load_state_dict(tensors)
        found = []
        for number in numbers:
            inversion = run_round(engine, targets([0, number % 3]), number)
            engine.learn(inversion)
            found += inversion.images()
        save_checkpoint(tmp_path, numbers.stop, State({f"engine.{k}": v for k, v in engine.state_dict().items()}))
        return found

    whole = run_rounds(name, None, range(1, 5))
    run_rounds(name, None, range(1, 3))
    _, state = load_checkpoint(tmp_path / "000003", torch.device("cpu"))
    stored = {key.removeprefix("engine."): value for key, value in state.tensors.items()}
    rest = run_rounds(name, stored, range(3, 5))
    assert all(torch.equal(one, other) for one, other in zip(whole[4:], rest, strict=True))
    assert len(rest) == 4


@every_engine
def test_loading_a_state_dict_undoes_later_learning(name: str) -> None:
    engine = small_engine(name, steps=2)
    before = {key: value.detach().clone() for key, value in engine.state_dict().items()}
    expected = recover(engine, targets([0]))[0]
    engine.learn(run_round(engine, targets([0, 1])))
    engine.load_state_dict(before)
    assert torch.equal(recover(engine, targets([0]))[0], expected)
    for key, value in before.items():
        assert torch.equal(engine.state_dict()[key], value)


@every_engine
def test_the_student_predicts_with_the_rows_of_each_member_and_changes_the_images(name: str) -> None:
    rows = [torch.tensor([4, 0, 6]), torch.tensor([1, 2, 3])]
    chosen = [Target(t.name, t.classifier, t.labels, r) for t, r in zip(targets([0, 1]), rows, strict=True)]
    used_rows: list[list[int]] = []
    student_model = CoarseStudent()

    def student(images: torch.Tensor, of: torch.Tensor | None) -> torch.Tensor:
        assert of is not None
        used_rows.append(of.tolist())
        return student_model(images, of)

    weights = InversionWeights(disagreement=5.0, divergence="js", jitter=0)
    engine = small_engine(name, weights=weights, steps=3)
    inversion = engine.start(chosen, student=student)
    first = inversion.step()
    assert used_rows == [[4, 0, 6], [1, 2, 3]]
    assert all(loss.disagreement > 0 for loss in first)
    inversion.step()
    plain = run_round(engine, chosen, steps=2)
    assert not torch.allclose(inversion.images()[0], plain.images()[0])
