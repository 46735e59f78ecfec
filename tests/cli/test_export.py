"""`dfml export`: files for other programs, their check, 8-bit integers, and the page for a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import World, dfml, error, results


def test_a_classifier_is_exported_checked_and_quantised(world: World, tmp_path: Path) -> None:
    out = tmp_path / "classifier.onnx"
    options = ("--int8", "--calibrate-with", world.images / "test", "--check-with", world.images / "test", "--page")
    found = results("export", world.classifier, "--out", out, *options)
    assert found["parity"] < 1e-4
    assert found["bytes"] == out.stat().st_size
    assert found["labels"] == ["new_0", "new_1", "new_2"]
    for part in ("int8", "files"):
        assert found[part]["images"] == 18
        assert found[part]["equal_labels"] >= 0.8
        assert 0 <= found[part]["mean"] <= found[part]["largest"] < 0.5
    page = Path(found["page"]).read_text()
    assert page.count("\n") <= 30
    assert '["new_0", "new_1", "new_2"]' in page
    assert "//" not in page.replace("<!--", "")  # it loads nothing from another place
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classifier.onnx", "classifier.onnx.html"]
    shown = dfml("export", world.classifier, "--out", out)
    assert "exists already" in error(shown, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "pt2", "--int8"), "--int8 and --page are for ONNX files"),
        (("--calibrate-with", "."), "--calibrate-with sets the ranges of --int8, which is not given"),
        (("--check-with", "missing/*.png"), "expected images at missing"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    world: World, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    assert message in error(dfml("export", world.classifier, "--out", tmp_path / "file", *options), 2)
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_written(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr("dfml.learners.classifier.FewShotClassifier.export", lambda *arguments, **options: None)
    monkeypatch.setattr(
        "dfml.export.exported.open_exported",
        lambda path, to: lambda images: np.full((len(images), 3), 0.9, dtype=np.float32),
    )
    line = error(dfml("export", world.classifier, "--to", "pt2", "--out", tmp_path / "file"), 1)
    assert "differs from the classifier" in line
    assert "no file was written" in line
    assert not list(tmp_path.iterdir())
