"""`dfml quickstart` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dfml.cli import app
from tests.demo.quickstart_small import FOLDERS, METHODS, TRAINED

ARTEFACTS = (
    "report.html",
    "results.json",
    *(f"contact_sheet_{name}.png" for name in TRAINED),
    "learning_curve.svg",
    *(f"{folder}/metrics.jsonl" for folder in FOLDERS),
)


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    result = CliRunner().invoke(app, ["quickstart", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path} is not empty")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.slow
@pytest.mark.numeric
def test_all_methods_of_the_quickstart_in_full_beat_an_untrained_network(tmp_path: Path) -> None:
    out, json_file = tmp_path / "run", tmp_path / "results.json"
    command = [sys.executable, "-m", "dfml", "quickstart", "--out", str(out), "--json", str(json_file)]
    offline = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=offline, check=False)
    assert done.returncode == 0, done.stderr
    values = json.loads(json_file.read_text(encoding="utf-8"))
    assert json.loads((out / "results.json").read_text(encoding="utf-8")).keys() == values.keys()
    assert list(values["methods"]) == METHODS
    untrained = values["methods"]["random_init"]
    for name in TRAINED:
        trained = values["methods"][name]
        assert trained["accuracy"] - trained["ci"] > untrained["accuracy"] + untrained["ci"]
        assert len(values["curves"][name]) > 3
    assert values["methods"]["zoo_student"]["accuracy"] > max(
        values["methods"][name]["accuracy"] for name in TRAINED[1:]
    )
    assert values["protocol"] == "strict"
    for name in ARTEFACTS:
        assert (out / name).stat().st_size > 0
    # With the colon, which base64 of the embedded images cannot contain.
    page = (out / "report.html").read_text(encoding="utf-8").replace("http://www.w3.org/", "")
    assert not {link for link in ("http:", "https:") if link in page}
    again = subprocess.run(command, capture_output=True, text=True, env=offline, check=False)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    for name in METHODS:
        assert name in done.stdout
