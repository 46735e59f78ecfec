"""ONNX graphs that read other files, ask for too much, or never end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.zoo.hostile.cases import Cases

CASES = Cases(needs="onnx")


def described(zoo: Path, change: Callable[[Any], None], name: str = "bad.onnx", **settings: Any) -> None:
    """A classifier that describes itself, changed."""
    import onnx

    from tests.zoo.onnx_models import METADATA, classifier

    model = classifier(**{"metadata": METADATA, **settings})
    change(model)
    (zoo / name).write_bytes(model.SerializeToString())
    assert onnx


def external(zoo: Path, location: str, **more: str) -> None:
    """A classifier whose kernel is said to be in another file."""

    def change(model: Any) -> None:
        kernel = model.graph.initializer[0]
        kernel.ClearField("raw_data")
        kernel.data_location = 1
        for key, value in {"location": location, **more}.items():
            kernel.external_data.add(key=key, value=value)

    described(zoo, change)


@CASES("file of the same folder")
def weights_by_an_absolute_path(zoo: Path) -> None:
    external(zoo, "/etc/passwd")


@CASES("file of the same folder")
def weights_in_the_folder_above(zoo: Path) -> None:
    (zoo.parent / "weights.bin").write_bytes(bytes(10_000))
    external(zoo, "../weights.bin")


@CASES("file of the same folder")
def weights_by_a_link_to_outside(zoo: Path) -> None:
    (zoo.parent / "weights.bin").write_bytes(bytes(10_000))
    (zoo / "bad-weights.bin").symlink_to(zoo.parent / "weights.bin")
    external(zoo, "bad-weights.bin")


@CASES("file of the same folder")
def weights_from_a_fifo(zoo: Path) -> None:
    os.mkfifo(zoo / "bad-weights.bin")
    external(zoo, "bad-weights.bin")


@CASES("shorter than the graph says")
def weights_beyond_their_file(zoo: Path) -> None:
    (zoo / "bad-weights.bin").write_bytes(bytes(100))
    external(zoo, "bad-weights.bin", offset="0", length=str(2**40))


@CASES("shorter than the graph says")
def weights_before_their_file(zoo: Path) -> None:
    (zoo / "bad-weights.bin").write_bytes(bytes(100_000))
    external(zoo, "bad-weights.bin", offset="-100", length="648")


@CASES("file of the same folder|cannot be read")
def a_location_with_a_zero_byte(zoo: Path) -> None:
    external(zoo, "a\0b")


@CASES("not valid ONNX|cannot read|cannot be read|damaged")
def a_shape_that_its_bytes_do_not_fill(zoo: Path) -> None:
    def change(model: Any) -> None:
        model.graph.initializer[0].dims[0] = 2**40

    described(zoo, change)


@CASES("not valid ONNX|cannot read|cannot be read|damaged")
def a_negative_shape(zoo: Path) -> None:
    def change(model: Any) -> None:
        model.graph.initializer[0].dims[0] = -6

    described(zoo, change)


@CASES("needs a library of code")
def an_operator_of_a_library(zoo: Path) -> None:
    from onnx import helper

    described(zoo, lambda model: None, extra=[helper.make_node("Run", ["images"], ["ran"], domain="evil")])


def constant(name: str, values: list[int]) -> Any:
    import numpy as np
    from onnx import helper, numpy_helper

    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, np.int64)))


def nodes(zoo: Path, made: Callable[[], list[Any]], **settings: Any) -> None:
    """A classifier with further operators before it; the last one's output is the image."""
    described(zoo, lambda model: None, extra=made(), **settings)


TOO_MUCH = "values in a tensor|memory|seconds|not valid ONNX|cannot read it|ended|too much"


@CASES(TOO_MUCH)
def a_tensor_that_is_enlarged(zoo: Path) -> None:
    from onnx import helper

    nodes(
        zoo,
        lambda: [
            constant("scales", [1, 1, 100_000, 100_000]),
            helper.make_node("Tile", ["images", "scales"], ["tiled"]),
        ],
    )


@CASES(TOO_MUCH, slow=True)
def a_tensor_that_is_enlarged_by_what_is_computed(zoo: Path) -> None:
    from onnx import TensorProto, helper

    # The number of repetitions is the sum of a comparison, which no inference of shapes knows.
    nodes(
        zoo,
        lambda: [
            helper.make_node("IsNaN", ["images"], ["nan"]),
            helper.make_node("Not", ["nan"], ["all"]),
            helper.make_node("Cast", ["all"], ["ones"], to=TensorProto.INT64),
            helper.make_node("ReduceSum", ["ones"], ["many"], keepdims=0),
            constant("four", [4]),
            helper.make_node("Expand", ["many", "four"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
            helper.make_node("ReduceMean", ["huge"], ["zero"], keepdims=0),
            helper.make_node("Add", ["images", "zero"], ["same"]),
        ],
    )


@CASES(TOO_MUCH, slow=True)
def a_loop_that_does_not_end(zoo: Path) -> None:
    from onnx import TensorProto, helper

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Sin", ["value"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )

    def made() -> list[Any]:
        import numpy as np
        from onnx import numpy_helper

        turns, going = numpy_helper.from_array(np.array(2**60)), numpy_helper.from_array(np.array(True))
        return [
            helper.make_node("Constant", [], ["turns"], value=turns),
            helper.make_node("Constant", [], ["start"], value=going),
            helper.make_node("Loop", ["turns", "start", "images"], ["looped"], body=body),
        ]

    nodes(zoo, made)


@CASES("not valid ONNX|cannot read it|ended|function")
def a_function_that_calls_itself(zoo: Path) -> None:
    from onnx import helper

    def change(model: Any) -> None:
        inner = helper.make_node("Again", ["x"], ["y"], domain="own")
        function = helper.make_function("own", "Again", ["x"], ["y"], [inner], [helper.make_opsetid("own", 1)])
        model.functions.append(function)
        model.opset_import.append(helper.make_opsetid("own", 1))

    described(zoo, change, extra=[helper.make_node("Again", ["images"], ["again"], domain="own")])


@CASES("ended|not valid ONNX|cannot read it|function|more than", slow=True)
def functions_that_double(zoo: Path) -> None:
    from onnx import helper

    def change(model: Any) -> None:
        opsets = [helper.make_opsetid("own", 1), helper.make_opsetid("", 17)]
        for index in range(40):
            if index:
                made = [
                    helper.make_node(f"F{index - 1}", ["x"], ["m"], domain="own"),
                    helper.make_node(f"F{index - 1}", ["m"], ["y"], domain="own"),
                ]
            else:
                made = [helper.make_node("Sin", ["x"], ["y"])]
            model.functions.append(helper.make_function("own", f"F{index}", ["x"], ["y"], made, opsets))
        model.opset_import.append(helper.make_opsetid("own", 1))

    described(zoo, change, extra=[helper.make_node("F39", ["images"], ["doubled"], domain="own")])


@CASES("more than 100000 operators", slow=True)
def two_hundred_thousand_operators(zoo: Path) -> None:
    from onnx import helper

    nodes(
        zoo,
        lambda: [
            helper.make_node("Identity", [f"x{index}" if index else "images"], [f"x{index + 1}"])
            for index in range(200_000)
        ],
    )


@CASES("damaged|no ONNX|not valid|cannot read it|no known kind|not recognised")
def graphs_a_thousand_deep(zoo: Path) -> None:
    from onnx import AttributeProto, GraphProto

    def change(model: Any) -> None:
        inner = GraphProto()
        for _ in range(45):
            outer = GraphProto()
            node = outer.node.add(op_type="If", input=["c"], output=["o"])
            node.attribute.add(name="then_branch", type=AttributeProto.GRAPH).g.CopyFrom(inner)
            inner = outer
        model.graph.node[0].attribute.add(name="hidden", type=AttributeProto.GRAPH).g.CopyFrom(inner)

    described(zoo, change)


@CASES("NaN|not finite|found nan")
def weights_that_are_no_numbers(zoo: Path) -> None:
    import numpy as np

    def change(model: Any) -> None:
        kernel = model.graph.initializer[0]
        kernel.raw_data = np.full(len(kernel.raw_data) // 4, np.nan, np.float32).tobytes()

    described(zoo, change)


@CASES("outputs, expected|labels", slow=True)
def a_million_labels(zoo: Path) -> None:
    labels = json.dumps([f"label {index}" for index in range(10**6)])
    described(zoo, lambda model: model.metadata_props.add(key="x", value=""), metadata={
        "labels": labels, "mean": "[0.5]", "std": "[0.5]"
    })  # fmt: skip


@CASES("JSON|labels|metadata|entry|Add|add")
def metadata_that_is_deep(zoo: Path) -> None:
    deep = "[" * 200_000 + "]" * 200_000
    described(zoo, lambda model: None, metadata={"labels": deep, "mean": "[0.5]", "std": "[0.5]"})


@CASES("std|positive|found")
def a_tiny_std(zoo: Path) -> None:
    described(zoo, lambda model: None, metadata={"labels": '["a", "b", "c"]', "mean": "[0.5]", "std": "[1e-40]"})


@CASES("size from 1|memory|too much|values in a tensor")
def a_huge_input(zoo: Path) -> None:
    described(zoo, lambda model: None, size=10**6)


@CASES("no known kind|damaged|no ONNX|not recognised")
def a_graph_that_is_cut_short(zoo: Path) -> None:
    described(zoo, lambda model: None)
    content = (zoo / "bad.onnx").read_bytes()
    (zoo / "bad.onnx").write_bytes(content[: len(content) // 2])


@CASES("")
def labels_with_escapes(zoo: Path) -> None:
    labels = json.dumps(["\x1b[2J", "<script>", "../../x"])
    described(zoo, lambda model: None, metadata={"labels": labels, "mean": "[0.5]", "std": "[0.5]"})
