"""The structure of the code: imports, sizes and names of files, and that no training needs images."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from dfml.cli.run_config import DEFAULT_METHOD
from dfml.methods import METHODS
from tests.factories import written_zoo
from tests.methods.test_methods import SMALL

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "dfml"
MAX_LINES = 350

SHARED_NAMES = {
    "__init__",
    "base",  # the base class of a package
    "config",  # the settings of a package's parts
    "zoo",  # a subcommand of the command line is named after what it is about
    "invert",  # likewise
    "settings",  # typed settings in general, and those of the quickstart
    "zoo_embedding",  # a method is named after its learner
}
"""Names that modules of several packages may have."""

DATA_FREE = """
import json, sys
from pathlib import Path

import PIL.Image, torchvision
from dfml.methods import METHODS
from dfml.zoo import Zoo

def refuse(*arguments, **settings):
    raise AssertionError("an image was opened while training")

class RefuseData:
    def find_spec(self, name, path=None, target=None):
        if name == "dfml.data" or name.startswith("dfml.data."):
            raise ImportError(f"{name} was imported while training")
        return None

assert not [name for name in sys.modules if name.startswith("dfml.data")]
sys.meta_path.insert(0, RefuseData())
PIL.Image.open = PIL.Image.frombytes = PIL.Image.frombuffer = refuse
for name in ("read_image", "decode_image", "decode_jpeg", "decode_png", "decode_webp", "decode_gif"):
    setattr(torchvision.io, name, refuse)
    setattr(torchvision.io.image, name, refuse)

zoo, out = Zoo.open(sys.argv[1]), Path(sys.argv[2])
for name, settings in json.loads(sys.argv[3]).items():
    METHODS[name](**settings).fit(zoo, out=out / name, device="cpu")
    print(name, flush=True)
assert not [name for name in sys.modules if name.startswith("dfml.data")]
"""


def test_imports_go_downwards_only(tmp_path: Path) -> None:
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=str(tmp_path)) == EXIT_STATUS_SUCCESS


def test_no_file_is_too_long_to_read() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {path: length for path, length in lengths.items() if length > MAX_LINES}


def test_no_two_packages_have_a_module_of_the_same_name() -> None:
    packages: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        package = path.relative_to(PACKAGE).parts[0] if path.parent != PACKAGE else "dfml"
        packages[path.stem].add(package)
    assert not {name: owners for name, owners in packages.items() if len(owners) > 1 and name not in SHARED_NAMES}


@pytest.mark.slow
def test_every_method_trains_in_a_process_that_can_open_no_image(tmp_path: Path) -> None:
    written_zoo(tmp_path / "zoo")
    names = [DEFAULT_METHOD, *(name for name in METHODS if name != DEFAULT_METHOD)]
    iterations = {name: {"iterations": 2} if METHODS[name]().config.iterations else {} for name in names}
    settings = {name: {"way": 3, **iterations[name], **SMALL.get(name, {})} for name in names}
    script = [sys.executable, "-c", DATA_FREE, str(tmp_path / "zoo"), str(tmp_path), json.dumps(settings)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == names
    assert all((tmp_path / name / "config.json").is_file() for name in names)
