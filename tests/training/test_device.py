from __future__ import annotations

import psutil
import pytest
import torch

from dfml.errors import UsageError
from dfml.training.device import computing_in, require_memory, select_device


@pytest.mark.parametrize(
    ("precision", "features", "expected"),
    [
        ("auto", {"avx512_bf16": True}, torch.bfloat16),
        ("auto", {"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ("auto", {"avx512_bf16": False, "avx2": True}, torch.float32),
        ("auto", {}, torch.float32),
        ("bfloat16", {}, torch.bfloat16),
        ("float32", {"avx512_bf16": True}, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, precision: str, features: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    values = torch.eye(3)
    with computing_in(precision, torch.device("cpu")):  # type: ignore[arg-type]
        assert (values @ values).dtype == expected
    assert (values @ values).dtype == torch.float32


def test_a_torch_without_get_capabilities_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    values = torch.eye(3)
    with computing_in("auto", torch.device("cpu")):
        assert (values @ values).dtype == torch.float32


def test_the_gpu_of_a_mac_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "zeros", lambda *size, device: device)  # as if torch could use it
    assert select_device("mps").type == "mps"


def test_a_device_that_is_missing_is_refused_with_the_choices() -> None:
    missing = "cuda" if torch.backends.mps.is_available() else "mps"
    with pytest.raises(UsageError, match=f"device '{missing}' cannot be used .* cpu, cuda or mps"):
        select_device(missing)


def test_an_allocation_that_does_not_fit_the_memory_is_refused_with_both_sizes() -> None:
    total, cpu = psutil.virtual_memory().total, torch.device("cpu")
    require_memory(2**20, cpu, "a test")
    with pytest.raises(UsageError, match=rf"a test takes {2 * total / 2**30:.1f} GiB, \d+\.\d are free; choose a sm"):
        require_memory(2 * total, cpu, "a test")


def test_devices_that_do_not_exist_are_refused() -> None:
    assert select_device("cpu") == torch.device("cpu")
    for name in ("abacus", "cuda:99"):
        with pytest.raises(UsageError, match="cannot be used"):
            select_device(name)
