from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dfml.methods.purer.curriculum import GradientSwitch


def reference_firings(accuracies: list[float], warm_up: int, patience: int) -> list[int]:
    """Meta-iterations after which the switch is on: the rule of the paper, computed from the whole history."""
    firings, history = [], []
    for iteration, accuracy in enumerate(accuracies, start=1):
        if iteration == warm_up:
            firings.append(iteration)
        elif iteration > warm_up:
            history.append(accuracy)
            best_at = max(range(len(history)), key=lambda index: (history[index], -index))
            if len(history) - 1 - best_at == patience:
                firings.append(iteration)
                history = []
    return firings


@given(st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6]), max_size=60), st.integers(1, 20), st.integers(1, 6))
def test_the_switch_follows_the_rule_of_the_paper(accuracies: list[float], warm_up: int, patience: int) -> None:
    switch, fired = GradientSwitch(warm_up, patience), []
    for iteration, accuracy in enumerate(accuracies, start=1):
        resumed = GradientSwitch(warm_up, patience)
        resumed.load_state_dict(switch.state_dict())
        switch = resumed  # the state can be saved and loaded at any time
        switch.observe(iteration, accuracy)
        if switch.take():
            fired.append(iteration)
    assert fired == reference_firings(accuracies, warm_up, patience)


def test_the_switch_is_on_for_one_step_only() -> None:
    switch = GradientSwitch(1, 6)
    switch.observe(1, 0.5)
    assert switch.take()
    assert not switch.take()


def test_the_switch_stays_off_while_the_accuracy_improves_or_if_disabled() -> None:
    improving, disabled = GradientSwitch(1, 2), GradientSwitch(1, 2, enabled=False)
    improving.observe(1, 0.0)
    improving.take()
    for iteration in range(2, 50):
        improving.observe(iteration, iteration / 100)
        disabled.observe(iteration, 0.1)
        assert not improving.take()
        assert not disabled.take()
