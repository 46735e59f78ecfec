"""Manifests (`zoo.yaml`) that ask for too much, run code, or lead elsewhere."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.zoo.hostile.cases import Cases, canary

CASES = Cases()


def manifest(zoo: Path, text: str | bytes) -> None:
    (zoo / "zoo.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())


def entry(zoo: Path, fields: str) -> None:
    """An entry of a file of two weights."""
    torch.save({"fc.weight": torch.zeros(2, 3), "fc.bias": torch.zeros(2)}, zoo / "bad.pth")
    manifest(zoo, f"members:\n- {{name: bad-entry, path: bad.pth, {fields}}}\n")


NO = "expected the manifest of a zoo, but"


@CASES("aliases", whole_zoo=True)
def a_billion_laughs(zoo: Path) -> None:
    lines = ["a0: &a0 [laugh, laugh]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    manifest(zoo, "\n".join([*lines, "members: *a59"]))


@CASES(NO, whole_zoo=True)
def a_tag_that_calls(zoo: Path) -> None:
    manifest(zoo, f"members: !!python/object/apply:os.system ['touch {canary(zoo)}']")


@CASES(NO, whole_zoo=True)
def a_tag_that_makes_an_object(zoo: Path) -> None:
    manifest(zoo, "members: !!python/object/new:subprocess.Popen [[touch, x]]")


@CASES(NO, whole_zoo=True)
def no_text(zoo: Path) -> None:
    manifest(zoo, b"members: [\xff\xfe\x00]")


@CASES(NO, whole_zoo=True)
def a_hundred_thousand_lists_deep(zoo: Path) -> None:
    manifest(zoo, "members: " + "[" * 100_000 + "]" * 100_000)


@CASES(NO, whole_zoo=True, slow=True)
def sixty_megabytes_of_lists(zoo: Path) -> None:
    manifest(zoo, "members: [" + "[],\n" * (15 * 2**20) + "[]]")


@CASES(NO, whole_zoo=True)
def more_than_is_read(zoo: Path) -> None:
    manifest(zoo, "#" * (65 * 2**20))


@CASES(NO, whole_zoo=True)
def numbers_that_collide(zoo: Path) -> None:
    prime = 2**61 - 1
    manifest(zoo, "members: {" + ",\n".join(f"{index * prime}: 1" for index in range(1, 100_000)) + "}")


@CASES(NO, whole_zoo=True, slow=True)
def twenty_thousand_members_of_one_name(zoo: Path) -> None:
    manifest(zoo, "members:\n" + "- {path: bad.pth}\n" * 20_000)


@CASES("no such file|more than|at most", slow=True)
def twenty_thousand_members(zoo: Path) -> None:
    manifest(zoo, "members:\n" + "".join(f"- {{path: bad-{index}.pth, labels: 2}}\n" for index in range(20_000)))


@CASES(NO, whole_zoo=True)
def no_mapping(zoo: Path) -> None:
    manifest(zoo, "- members")


@CASES(NO, whole_zoo=True)
def numbers_beyond_any_bound(zoo: Path) -> None:
    entry(zoo, f"labels: {'9' * 5000}, size: .inf")


@CASES("labels: expected 1 to 1000000|labels")
def a_billion_labels(zoo: Path) -> None:
    entry(zoo, "architecture: 'timm:resnet18', labels: 1000000000")


@CASES("does not fit", slow=True)
def a_million_labels(zoo: Path) -> None:
    entry(zoo, "architecture: 'timm:resnet18', labels: 1000000")


@CASES("at most 1202")
def a_million_layers_by_depth(zoo: Path) -> None:
    entry(zoo, "architecture: 'cifar_resnet:6000002', labels: 2, size: 32")


@CASES("integers of at most 300000 in `arguments`")
def a_million_layers_by_argument(zoo: Path) -> None:
    entry(zoo, "architecture: 'timm:vit_tiny_patch16_224', arguments: {depth: 1000000}, labels: 2, size: 224")


@CASES("at most|does not fit|cannot be built", slow=True)
def a_width_beyond_memory(zoo: Path) -> None:
    entry(zoo, "architecture: 'torchvision:squeezenet1_0', arguments: {dropout: 0.5}, labels: 1000000, size: 32")


@CASES("expected finite numbers")
def a_number_that_is_not_finite(zoo: Path) -> None:
    entry(zoo, "architecture: 'timm:vit_tiny_patch16_224', arguments: {mlp_ratio: .inf}, labels: 2, size: 224")


def layers(zoo: Path, lines: list[str], tensors: dict[str, torch.Tensor], size: int = 16) -> None:
    torch.save(tensors, zoo / "bad.pth")
    written = "\n".join(f"  - {line}" for line in lines)
    manifest(
        zoo, f"members:\n- name: bad-entry\n  path: bad.pth\n  labels: 2\n  size: {size}\n  architecture:\n{written}\n"
    )


LINEAR = {"fc.weight": torch.zeros(2, 3), "fc.bias": torch.zeros(2)}


@CASES("memory|too much|values")
def layers_that_make_an_image_larger(zoo: Path) -> None:
    layers(zoo, ["ZeroPad2d(512)"] * 40 + ["AdaptiveAvgPool2d(1)", "Flatten", "fc: Linear(3, 2)"], LINEAR)


@CASES("expected a layer such as")
def layers_that_call(zoo: Path) -> None:
    layers(zoo, [f"\"__import__('os').system('touch {canary(zoo)}')\""], LINEAR)


@CASES("expected one of|expected a layer")
def a_layer_of_another_name(zoo: Path) -> None:
    layers(zoo, ["Module.__init__"], LINEAR)


@CASES("at most")
def a_layer_of_many_weights(zoo: Path) -> None:
    layers(zoo, ["Flatten", "fc: Linear(16777216, 16777216)"], LINEAR)


@CASES("at most")
def ten_thousand_layers(zoo: Path) -> None:
    layers(zoo, ["ReLU"] * 10_000, LINEAR)


@CASES("and you have not named it")
def a_network_file_of_the_zoo(zoo: Path) -> None:
    (zoo / "bad.py").write_text(f"open({canary(zoo)!r}, 'w')")
    entry(zoo, "network: 'bad.py:Net', labels: 2")


@CASES("there is no format")
def a_format_that_is_a_module(zoo: Path) -> None:
    entry(zoo, "format: os, labels: 2")


@CASES("no such file|cannot be read|not recognised|text")
def a_path_out_of_the_zoo(zoo: Path) -> None:
    manifest(zoo, "members:\n- {name: bad-entry, path: ../../../../../../etc/passwd, labels: 2, size: 32}\n")


@CASES(NO, whole_zoo=True)
def a_name_that_is_a_path(zoo: Path) -> None:
    manifest(zoo, "members:\n- {name: ../../bad, path: bad.pth, labels: 2}\n")


@CASES("expected hf:OWNER/NAME")
def a_hub_id_that_is_a_path(zoo: Path) -> None:
    manifest(zoo, "members:\n- {name: bad-entry, path: 'hf:../../etc/passwd'}\n")


@CASES("cannot be fetched|expected hf:")
def a_hub_id_of_dots(zoo: Path) -> None:
    manifest(zoo, "members:\n- {name: bad-entry, path: 'hf:../..'}\n")


@CASES("cannot be fetched|expected hf:")
def a_hub_revision_that_is_a_path(zoo: Path) -> None:
    manifest(zoo, "members:\n- {name: bad-entry, path: 'hf:owner/name@../../../etc'}\n")


@CASES("expected an address|no such file")
def an_address_of_a_file(zoo: Path) -> None:
    fields = "format: http, labels: 2, arguments: {limit: 5}"
    manifest(zoo, f"members:\n- {{name: bad-entry, path: 'file:///etc/passwd', {fields}}}\n")


@CASES("")
def labels_with_escapes(zoo: Path) -> None:
    torch.save({"0.weight": torch.randn(2, 3 * 64), "0.bias": torch.zeros(2)}, zoo / "bad.pth")
    manifest(
        zoo,
        "members:\n- name: bad-entry\n  path: bad.pth\n  size: 8\n  labels: [\"\\e[2J\\u202e\", '<img src=x>']\n"
        "  architecture:\n  - flat: Flatten\n  - '0': Linear(192, 2)\n",
    )
