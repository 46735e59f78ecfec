from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dfml.training.ring_buffer import newest_slots


@given(st.integers(0, 30), st.integers(1, 9))
def test_slots_are_those_of_the_last_entries_newest_first(written: int, capacity: int) -> None:
    slots: list[int | None] = [None] * capacity
    for entry in range(written):
        slots[entry % capacity] = entry
    expected = sorted((entry for entry in slots if entry is not None), reverse=True)
    assert [slots[slot] for slot in newest_slots(written, capacity).tolist()] == expected
