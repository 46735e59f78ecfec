"""Model cards of learners and classifiers, as Markdown with the metadata that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_METADATA = """---
library_name: dfml
pipeline_tag: image-classification
tags:
- few-shot-learning
- data-free-meta-learning
---
"""

_LEARNER_USE = """```python
import dfml

learner = dfml.MetaLearner.from_pretrained("...")  # this folder, or its name on the Hugging Face Hub
classifier = learner.adapt({"cat": ["cat-1.jpg", "cat-2.jpg"], "dog": ["dog-1.jpg", "dog-2.jpg"]})
classifier.predict("unknown.jpg")
```
"""

_CLASSIFIER_USE = """```python
import dfml

classifier = dfml.FewShotClassifier.from_pretrained("...")  # this folder, or its name on the Hugging Face Hub
classifier.predict("unknown.jpg")  # one of the labels
```
"""

_LIMITS = """## Limits

- It is as good as the classifiers that it was made from: images unlike those that they were trained on (another kind of
  picture, another scale) are classified worse, and their biases are inherited.
- It always chooses one of its classes, also for an image of none of them. Probabilities are not calibrated.
- A classifier of a few images per class errs often; measure it on labelled images of your own before you rely on it.
- For natural photographs of usual size, a head on a public pre-trained backbone is often more accurate.

## How to cite

The citation of dfml is in the `CITATION.cff` of its source. The learner's method, {method}, and its source are in the
page `docs/papers.md` there.
"""

_PROTOCOLS = {
    "strict": "`strict`: the prediction for an image never depends on the other images of a batch",
    "paper": "`paper`: transductive, a batch of images is normalised with its own statistics",
    "any": "`any`: the prediction for an image never depends on other images, whatever the protocol",
}


def model_card(config: Mapping[str, Any], about: Mapping[str, Any], results: Mapping[str, str] | None) -> str:
    """Write a model card.

    Args:
        config: `get_config()` of a learner or a classifier.
        about: Its `describe()`.
        results: Accuracy by task; None: none is recorded.
    """
    is_learner = "way" in config
    learner = config if is_learner else about.get("learner", {})
    size = config["preprocessing"]["size"]
    rows = {
        "image size": f"{size} x {size} pixels; other sizes are resized",
        "protocol": _PROTOCOLS.get(learner.get("protocol", ""), "not recorded"),
        "made with": f"dfml {about['version']}",
        "SHA-256 of the weights": f"`{about['weights_sha256']}`"
        if about["weights_sha256"]
        else "no weights of its own",
    }
    if is_learner:
        title, use = config["name"], _LEARNER_USE
        what = (
            "Few-shot image classifier: it adapts to new classes from a few labelled images of each, and was made from "
            "pre-trained classifiers without their training images."
        )
        rows = {
            "kind of learner": f"`{config['kind']}`",
            "classes per training episode": f"{config['way']}; it adapts to any number",
            **rows,
        }
    else:
        title, use = f"Classifier of {len(config['labels'])} classes", _CLASSIFIER_USE
        what = (
            "Image classifier, adapted from a few labelled images per class by a learner that was made from "
            "pre-trained classifiers without their training images."
        )
        support = about.get("support", {})
        counted = [f"{label} ({support[label]})" if label in support else label for label in config["labels"]]
        rows = {
            "labels (support images)": ", ".join(counted),
            "learner": f"{learner.get('name', 'not recorded')}, kind `{learner.get('kind', 'not recorded')}`",
            "calibration": about.get("calibration", "none"),
            **rows,
        }
    method = about.get("method", "not recorded")
    table = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items())
    return "\n".join(
        [
            f"{_METADATA}\n# {title}\n\n{what}\n\n| | |\n|---|---|\n{table}\n\n{use}",
            _zoo(method, about.get("members", [])),
            _results(results),
            _LIMITS.format(method=f"`{method}`" if method != "not recorded" else "which is not recorded"),
        ]
    )


def _zoo(method: str, members: list[dict[str, str]]) -> str:
    if not members:
        return "## Zoo\n\nThe members of the zoo are not recorded.\n"
    rows = "\n".join(f"| {_cell(each['name'])} | `{each.get('sha256', 'in memory')}` |" for each in members)
    return (
        f"## Zoo\n\nThe method `{method}` made it from {len(members)} classifiers.\n\n"
        f"| member | SHA-256 of its weights |\n|---|---|\n{rows}\n"
    )


def _results(results: Mapping[str, str] | None) -> str:
    if not results:
        return "## Results\n\nNo evaluation is recorded here; `dfml evaluate` measures a learner on labelled images.\n"
    rows = "\n".join(f"| {_cell(task)} | {_cell(accuracy)} |" for task, accuracy in results.items())
    return f"## Results\n\n| task | accuracy |\n|---|---|\n{rows}\n"


def _cell(text: object) -> str:
    """Text in a cell of a table; labels may hold anything."""
    return " ".join(str(text).replace("|", "\\|").replace("<", "&lt;").split())
