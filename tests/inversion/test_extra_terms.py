"""Names of loss terms of other packages: one name for the term and its registration, and none of dfml's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from dfml.errors import UsageError
from dfml.inversion import terms
from dfml.inversion.loss import InversionWeights
from dfml.inversion.terms import BUILT_IN_TERMS, LossInputs, built_in_terms, create_extra_terms, register_loss_term
from tests.packages import declare_entry_points


@dataclass(frozen=True)
class Edges:
    weight: float
    name: str = "edges"
    needs_statistics: bool = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        return inputs.pixels.diff(dim=-1).abs().mean()


@pytest.fixture(autouse=True)
def _no_registered_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms._EXTRA, "_registered", {})


def test_a_term_is_created_with_its_weight_unless_that_is_zero() -> None:
    register_loss_term("edges", Edges)
    assert create_extra_terms({"edges": 0.5}) == (Edges(0.5),)
    assert create_extra_terms({"edges": 0.0}) == ()


def test_without_any_term_an_unknown_name_says_where_terms_come_from() -> None:
    with pytest.raises(UsageError, match=r"'edges'; no package declares one .* dfml\.loss_terms"):
        create_extra_terms({"edges": 0.5})


def test_a_term_with_another_name_than_its_registration_is_refused() -> None:
    register_loss_term("corners", Edges)
    with pytest.raises(
        UsageError,
        match=r"the loss term 'corners': expected the created object's `name` to be 'corners', found 'edges'",
    ):
        InversionWeights(extra={"corners": 1.0}).terms()


@pytest.mark.parametrize("name", [*BUILT_IN_TERMS, "loss"])
def test_a_reserved_name_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=f"the name '{name}' of a loss term is reserved for dfml"):
        register_loss_term(name, lambda weight: Edges(weight, name=name))
    declare_entry_points(tmp_path, "terms", loss_terms=f"{name} = tests.inversion.test_extra_terms:Edges")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=f"the name '{name}' of a loss term is reserved for dfml"):
        create_extra_terms({name: 1.0})


def test_the_reserved_names_are_those_of_the_built_in_terms() -> None:
    created = built_in_terms(
        label=1.0, batch_norm=1.0, first_layer=1.0, total_variation=1.0, l2=1.0, disagreement=1.0, divergence="kl"
    )
    assert tuple(term.name for term in created) == BUILT_IN_TERMS
