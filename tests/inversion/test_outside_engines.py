"""Engines and loss terms from outside the package: registered or declared as an entry point, used like dfml's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dfml
from dfml.errors import ConfigError, UsageError
from dfml.inversion import registry, terms
from dfml.inversion.engine import Engine, InversionRun, StudentRowLogits, Target, recover
from dfml.inversion.image_source import ImageSource
from dfml.inversion.loss import InversionLoss, InversionWeights, inversion_loss
from dfml.inversion.registry import EngineEntry, InversionConfig, create_engine, register_engine
from dfml.inversion.shared_images import shared_image_indices
from dfml.inversion.terms import LossInputs, register_loss_term
from dfml.inversion.views import View
from dfml.settings import FrozenSettings, build_config
from dfml.zoo import Zoo
from tests.factories import PREPROCESSING, images, member, written_zoo, zoo


class JointSettings(FrozenSettings):
    """Settings of an engine that is not part of the package."""

    steps: int = 3
    lr: float = 0.1
    weights: InversionWeights = InversionWeights(jitter=0)


class Joint(Engine):
    """Optimises one set of pixels for all members of a round, by the sum of their gradients."""

    def __init__(self, settings: JointSettings, preprocessing: Any, **_: Any) -> None:
        self.settings, self.preprocessing, self.steps = settings, preprocessing, settings.steps

    def start(
        self, targets: Sequence[Target], round_index: int = 0, *, student: StudentRowLogits | None = None
    ) -> InversionRun:
        return JointRun(self, targets)


class JointRun(InversionRun):
    def __init__(self, engine: Joint, targets: Sequence[Target]) -> None:
        super().__init__(targets)
        self.engine = engine
        self.indices = [torch.arange(len(t.labels)) if t.images is None else t.images for t in self.targets]
        count = 1 + max(int(indices.max()) for indices in self.indices)
        size = engine.preprocessing.size
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(count, 3, size, size, generator=generator).requires_grad_()

    def step(self) -> list[InversionLoss]:
        losses = [
            inversion_loss(
                target.network,
                self.pixels[indices],
                target.labels,
                self.engine.preprocessing,
                self.engine.settings.weights,
                View(),
            )
            for target, indices in zip(self.targets, self.indices, strict=True)
        ]
        (gradient,) = torch.autograd.grad(torch.stack([loss.total for loss in losses]).sum(), self.pixels)
        with torch.no_grad():
            self.pixels -= self.engine.settings.lr * gradient.sign()
        self.done += 1
        return [loss.detach() for loss in losses]

    def images(self) -> list[Tensor]:
        shown = self.engine.preprocessing.denormalise(self.pixels.detach()).clamp(0.0, 1.0)
        return [shown[indices] for indices in self.indices]


@pytest.fixture
def _joint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.ENGINES, "_registered", {})
    register_engine("joint", EngineEntry(JointSettings, Joint, shares_pixels=True))


@pytest.mark.usefixtures("_joint")
def test_an_engine_is_chosen_by_name_with_settings_of_its_own() -> None:
    config = build_config(InversionConfig, {"engine": "joint", "joint": {"steps": 5}})
    engine = create_engine(config, PREPROCESSING)
    assert isinstance(engine, Joint)
    assert (engine.steps, engine.settings.lr) == (5, 0.1)
    plain = config.model_dump(mode="json")
    assert plain["joint"]["steps"] == 5
    assert build_config(InversionConfig, plain) == config
    assert InversionConfig(engine="joint").section().steps == 3
    with pytest.raises(ConfigError, match="joint: setting 'magic': unknown setting"):
        build_config(InversionConfig, {"engine": "joint", "joint": {"magic": 1}})


def test_an_unregistered_engine_is_refused_with_the_known_names() -> None:
    with pytest.raises(
        ConfigError, match="unknown engine; choose one of five, fast_dfkd, cmi, ei, zeroth_order, consensus"
    ):
        build_config(InversionConfig, {"engine": "joint"})
    with pytest.raises(ConfigError, match="unknown setting 'joint'; known are engine"):
        build_config(InversionConfig, {"joint": {}})
    with pytest.raises(UsageError, match="one of dfml's own"):
        register_engine("ei", EngineEntry(JointSettings, Joint))


@pytest.mark.usefixtures("_joint")
def test_members_with_a_common_class_share_its_pixels() -> None:
    members = zoo(3)  # adjacent members share one class
    source = ImageSource(InversionConfig(engine="joint"), members, PREPROCESSING, patience=2)
    found = source.recover([0, 1, 2], 2, 1)
    # The last class of member 0 is the first of member 1, and its images are returned once.
    assert [each.labels.tolist() for each in found.values()] == [[0, 0, 1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2]]
    assert list(source.recover([1, 0, 1], 2, 1)) == [1, 0]
    assert len(torch.cat([each.images for each in found.values()]).unique(dim=0)) == 7 * 2
    assert source.last_metrics["inversion_loss"] > 0


def test_images_are_shared_by_class_and_number() -> None:
    classes = [torch.tensor([7, 7, 3]), torch.tensor([3, 3, 7]), torch.tensor([5])]
    first, second, third = (indices.tolist() for indices in shared_image_indices(classes))
    assert (first, second, third) == ([0, 1, 2], [2, 3, 0], [4])


@pytest.mark.usefixtures("_joint")
def test_a_zoo_is_inverted_by_it_in_python_and_by_the_command(tmp_path: Path) -> None:
    from tests.cli.conftest import results

    members = written_zoo(tmp_path / "zoo")
    inverted = dfml.invert(members, engine="joint", per_class=2, members=["m1", 0])
    assert [each.name for each in inverted] == ["m1", "m0"]
    assert {len(of_class) for each in inverted for of_class in each.images} == {2}
    options = ("--engine", "joint", "--per-class", "2", "--set", "joint.steps=2")
    found = results("invert", tmp_path / "zoo", "--out", tmp_path / "out", *options)
    assert list(found["members"]) == ["m0", "m1", "m2"]


class Brightness:
    """A loss term that is not part of the package: the mean of the images."""

    name, needs_statistics = "brightness", False

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, inputs: LossInputs) -> Tensor:
        return inputs.images.mean()


def test_a_registered_loss_term_is_added_with_the_weight_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms._EXTRA, "_registered", {})
    register_loss_term("brightness", Brightness)
    pixels, labels = PREPROCESSING.normalise(images(3)), torch.tensor([0, 1, 2])
    plain, weights = InversionWeights(), InversionWeights(extra={"brightness": 2.0})
    before, after = (inversion_loss(member(0), pixels, labels, PREPROCESSING, w, View()) for w in (plain, weights))
    torch.testing.assert_close(after.parts["brightness"], images(3).mean())
    torch.testing.assert_close(after.total, before.total + 2.0 * images(3).mean())
    source = ImageSource(
        InversionConfig(engine="ei", ei={"steps": 2, "weights": weights}),  # type: ignore[arg-type]
        Zoo.of([member(0)]),
        PREPROCESSING,
        patience=2,
    )
    source.recover([0], 1, 1)
    assert 0.0 < source.last_metrics["inversion_brightness"] < 1.0
    with pytest.raises(UsageError, match="unknown loss term 'edges'"):
        inversion_loss(member(0), pixels, labels, PREPROCESSING, InversionWeights(extra={"edges": 1.0}), View())


@pytest.mark.usefixtures("_joint")
def test_recovering_from_one_member_needs_no_indices() -> None:
    engine = create_engine(InversionConfig(engine="joint"), PREPROCESSING)
    (found,) = recover(engine, [Target("m", member(0), torch.tensor([0, 1, 2]))])
    assert found.shape == (3, 3, 16, 16)
