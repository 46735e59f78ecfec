"""The house stays as it is drawn: who may import whom, how large a file may be, and that training needs no data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

DATA_FREE = """
import sys, torch
from pathlib import Path
import dfml
from dfml.zoo import Zoo

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name == "PIL.Image" or name.startswith("dfml.data"):
            raise ImportError(f"{name} was imported while training: training must need no images")
        return None

import timm, torchvision, dfml.methods.purer  # timm itself imports PIL; dfml must not reach for data after this
sys.meta_path.insert(0, Forbidden())
assert "dfml.data" not in sys.modules
zoo = Zoo.open(sys.argv[1])
settings = {"way": 3, "shot": 1, "query": 2, "iterations": 3, "warm_up": 1, "learner": {"inner_steps": 2}}
dfml.PURER(**settings).fit(zoo, out=sys.argv[2], device="cpu")
assert not [name for name in sys.modules if name.startswith("dfml.data")]
"""


def test_imports_go_downwards_only(tmp_path: Path) -> None:
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=str(tmp_path)) == EXIT_STATUS_SUCCESS


def test_no_file_is_too_long_to_read() -> None:
    long = {
        str(p.relative_to(ROOT)): n for p in ROOT.glob("src/**/*.py") if (n := len(p.read_text().splitlines())) > 500
    }
    assert not long


@pytest.mark.slow
def test_trains_where_no_image_is_on_the_disk(tmp_path: Path) -> None:
    from tests.methods.test_baselines import written_zoo

    written_zoo(tmp_path / "zoo")
    script = [sys.executable, "-c", DATA_FREE, str(tmp_path / "zoo"), str(tmp_path / "run")]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").is_file()
