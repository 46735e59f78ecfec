from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories import ZooMaker


@pytest.fixture
def zoo_maker(tmp_path: Path) -> ZooMaker:
    return ZooMaker(tmp_path / "zoo")
