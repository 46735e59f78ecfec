from __future__ import annotations

from pathlib import Path

from PIL import Image

from dfml.playground.example_images import ExampleImages


def test_the_letters_are_rendered_once_and_one_test_image_is_of_no_class(tmp_path: Path) -> None:
    examples = ExampleImages(tmp_path / "letters", 16)
    classes, tests = examples.files()
    assert list(classes) == list(examples.names)
    assert all(len(files) == 5 for files in classes.values())
    with Image.open(tests[0]) as image:
        assert image.size == (16, 16)
    names = [Path(test).name.rpartition("-")[0] for test in tests]
    assert set(names) - set(classes) == {names[-1]}
    assert not {*tests} & {file for files in classes.values() for file in files}
    before = Path(tests[0]).stat().st_mtime_ns
    assert examples.files() == (classes, tests)
    assert Path(tests[0]).stat().st_mtime_ns == before
