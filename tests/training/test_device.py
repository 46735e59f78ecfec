from __future__ import annotations

import psutil
import pytest
import torch

from dfml.errors import UsageError
from dfml.training.device import computing_in, require_memory


@pytest.mark.parametrize(
    ("precision", "able", "found"),
    [
        ("auto", {"avx512_bf16": True}, torch.bfloat16),
        ("auto", {"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ("auto", {"avx512_bf16": False, "avx2": True}, torch.float32),
        ("auto", {}, torch.float32),
        ("bfloat16", {}, torch.bfloat16),
        ("float32", {"avx512_bf16": True}, torch.float32),
    ],
)
def test_auto_takes_bfloat16_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, precision: str, able: dict[str, bool], found: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    values = torch.eye(3)
    with computing_in(precision, torch.device("cpu")):  # type: ignore[arg-type]
        assert (values @ values).dtype == found
    assert (values @ values).dtype == torch.float32


def test_a_torch_that_does_not_tell_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    values = torch.eye(3)
    with computing_in("auto", torch.device("cpu")):
        assert (values @ values).dtype == torch.float32


def test_what_does_not_fit_the_memory_is_refused_with_both_figures() -> None:
    there, cpu = psutil.virtual_memory().total, torch.device("cpu")
    require_memory(2**20, cpu, "a test")
    with pytest.raises(UsageError, match=rf"a test takes {2 * there / 2**30:.1f} GiB, \d+\.\d are free; choose a sm"):
        require_memory(2 * there, cpu, "a test")
