"""Example images for visitors who have none at hand: letters that the quickstart's classifiers were not trained on."""

from __future__ import annotations

from pathlib import Path

from dfml.data.glyphs import glyphs
from dfml.images import to_float, to_pil

_NAMES = ("greek_alpha", "greek_xi", "cyrillic_capital_zhe")
_STRANGER = "greek_capital_omega"  # a test image of no class
_SUPPORT, _TESTS = 5, 2  # images per class


class ExampleImages:
    """Support images of three letters, and test images of these and of a fourth; rendered when they are first needed.

    Args:
        folder: Folder for the files.
        size: Side length of the images in pixels.
    """

    names = _NAMES

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size

    def files(self) -> tuple[dict[str, list[str]], list[str]]:
        """Class -> paths of its support images, and the paths of the test images."""
        return (
            {name: [str(self._path(name, number)) for number in range(_SUPPORT)] for name in _NAMES},
            [str(self._path(name, _SUPPORT + number)) for name in _NAMES for number in range(_TESTS)]
            + [str(self._path(_STRANGER, 0))],
        )

    def _path(self, name: str, number: int) -> Path:
        path = self._folder / f"{name}-{number}.png"
        if not path.exists():
            self._render()
        return path

    def _render(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        letters = glyphs("test", per_class=_SUPPORT + _TESTS, size=self._size)
        for name in (*_NAMES, _STRANGER):
            for number, image in enumerate(letters.images[letters.of_class(letters.classes.index(name))]):
                to_pil(to_float(image)).save(self._folder / f"{name}-{number}.png")
