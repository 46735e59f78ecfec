"""`QuickstartFolder`: where each file of a quickstart lies."""

from __future__ import annotations

from pathlib import Path

from dfml.methods.zoo_student import ZooStudent


class QuickstartFolder:
    """Paths in the folder of a quickstart; nothing is created.

    Args:
        path: The folder; it need not exist.

    Attributes:
        zoo: Folder of the zoo.
        classifier: Folder of the classifier that was adapted to the new task.
        task: Folder of the new task's images; see `dfml.demo.page.save_task`.
        page: The report page.
        curves: The learning curves, as SVG.
        results: The plain values of all results, as JSON.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.zoo = path / "zoo"
        self.classifier = path / "classifier"
        self.task = path / "task"
        self.page = path / "report.html"
        self.curves = path / "learning_curve.svg"
        self.results = path / "results.json"

    def run_folder(self, method: str) -> Path:
        """Run folder of a method, with its learner: `learner/` for `zoo_student`, else named like the method."""
        return self.path / ("learner" if method == ZooStudent.name else method)

    def contact_sheet(self, method: str) -> Path:
        """Contact sheet of the images that a method recovered, as PNG."""
        return self.path / f"contact_sheet_{method}.png"
