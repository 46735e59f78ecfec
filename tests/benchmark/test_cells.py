"""Cells: one training each, shared by scenarios, and named by what it depends on."""

from __future__ import annotations

from dfml.benchmark.cells import PlannedCell, plan_cells, slug
from dfml.benchmark.suite import Suite
from tests.benchmark.small import STEPS, suite

DIGESTS = {"letters": "x", "more": "y"}


def _planned(loaded: Suite) -> list[PlannedCell]:
    return plan_cells(loaded, DIGESTS)


def test_a_training_per_method_and_seed_has_all_evaluations() -> None:
    cells = _planned(suite(seeds=[0, 1]))
    assert [(each.cell.row, each.cell.seed) for each in cells] == [
        (row, seed) for row in ("purer", "zoo_embedding", "average") for seed in (0, 1)
    ]
    for each in cells:
        assert [(m.way, m.shot) for m in each.measurements] == [(3, 1), (4, (1, 2))]
        assert each.cell.config().seed == each.cell.seed
        assert each.cell.config().way == 3
    assert cells[0].cell.config().iterations == 2
    assert len({each.cell.key for each in cells}) == 6


def test_seeds_of_a_method_replace_those_of_the_suite() -> None:
    cells = _planned(suite(seeds=[0, 1], methods={"purer": {"seeds": [7]}}))
    assert [each.cell.seed for each in cells] == [7, 0, 1, 0, 1]


def test_a_training_per_shot_is_evaluated_on_its_own_tasks() -> None:
    loaded = suite(
        tasks=[{"way": 3, "shot": 1}, {"way": 3, "shot": 2}, {"way": 4, "shot": [1, 2]}],
        methods={"purer": {"per_shot": True}},
    )
    cells = [each for each in _planned(loaded) if each.cell.row == "purer"]
    assert [(each.cell.shot, each.cell.config().shot) for each in cells] == [(1, 1), (2, 2)]
    assert [[(m.way, m.shot) for m in each.measurements] for each in cells] == [[(3, 1)], [(3, 2), (4, (1, 2))]]


def test_scenarios_share_a_training() -> None:
    far = {"zoos": "letters", "tests": ["glyphs", "omniglot"]}
    cells = _planned(suite(scenarios={"far": far}))
    assert len(cells) == 3
    assert [(m.dataset, m.way) for m in cells[0].measurements] == [
        ("glyphs", 3),
        ("glyphs", 4),
        ("omniglot", 3),
        ("omniglot", 4),
    ]


def test_a_key_changes_with_settings_and_zoo_and_not_with_evaluations() -> None:
    key = _planned(suite())[0].cell.key
    assert _planned(suite(episodes=500, query=5))[0].cell.key == key
    assert _planned(suite(methods={"purer": {"settings": {**STEPS, "outer_lr": 0.5}}}))[0].cell.key != key
    assert plan_cells(suite(), {"letters": "z"})[0].cell.key != key
    assert _planned(suite(protocol="paper"))[0].cell.key != key


def test_a_method_may_have_a_zoo_of_its_own() -> None:
    loaded = suite(zoos={"more": {"path": "more"}}, methods={"zoo_embedding": {"zoo": "more"}})
    assert {each.cell.row: each.cell.zoos for each in _planned(loaded)} == {
        "purer": ("letters",),
        "zoo_embedding": ("more",),
        "average": ("letters",),
    }


def test_names_of_files_are_plain() -> None:
    assert slug("zoo_embedding, centred", "a/b", "..", "5-way") == "zoo_embedding-centred-a-b-x-5-way"
