"""Files of weights are members by their entry in the manifest, with the outputs of the network that they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dfml
from dfml.backbones.cifar_resnet import CifarResNet
from dfml.errors import UsageError, ZooError, ZooMemberError
from dfml.zoo import Zoo
from dfml.zoo.inspection import inspect_zoo
from dfml.zoo.layer_lists import build_layers
from dfml.zoo.manifest import Manifest, ManifestMember, write_manifest
from dfml.zoo.vetting import sha256
from tests.factories import ZooMaker, images

LAYERS = [{"conv": "Conv2d(3, 4, 3, padding=1)"}, "ReLU", "AdaptiveAvgPool2d(2)", "Flatten", {"fc": "Linear(16, 3)"}]
OWNER = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.fc = nn.Linear(width * 36, 3)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.fc(x.view(len(x), -1))
"""


def member_zoo(folder: Path, content: nn.Module | dict[str, Tensor], **entry: Any) -> Zoo:
    """A zoo of one file of weights, written by `torch.save`."""
    (folder / "files").mkdir(parents=True)
    weights = content.state_dict() if isinstance(content, nn.Module) else content
    torch.save(weights, folder / "files" / "net.pth")
    return open_zoo(folder, **entry)


def open_zoo(folder: Path, networks: dict[str, str] | None = None, **entry: Any) -> Zoo:
    member = ManifestMember(**{"path": "files/net.pth", "labels": 3, "size": 8, **entry})
    write_manifest(folder, Manifest(members=(member,)))
    return Zoo.open(folder, networks=networks)


def test_a_list_of_layers_answers_as_the_network_did(tmp_path: Path) -> None:
    network = build_layers(LAYERS).eval()
    zoo = member_zoo(tmp_path, network, architecture=LAYERS, mean=(0.1, 0.2, 0.3), std=0.5, held_out_accuracy=0.5)
    member = zoo.classifier(0)
    normalised = (images(2, size=8) - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.5
    assert torch.allclose(member.logits(images(2, size=8)), network(normalised), atol=1e-5)
    assert (zoo.name(0), member.labels) == ("net", ("0", "1", "2"))
    (row,) = inspect_zoo(tmp_path).members
    assert (row.name, row.format, row.held_out_accuracy, row.problem) == ("net", "state_dict", 0.5, None)
    assert row.sha256 == sha256(tmp_path / "files" / "net.pth")
    assert inspect_zoo(tmp_path).others == 0


def test_a_name_of_torchvision_with_another_head_and_stem(tmp_path: Path) -> None:
    arguments = {"replace": {"fc": ["Linear(512, 8)", "ReLU", "Linear(8, 3)"], "maxpool": "Identity"}}
    from torchvision.models import resnet18

    network = resnet18()
    network.fc = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 3))
    network.maxpool = nn.Identity()
    zoo = member_zoo(tmp_path, network.eval(), architecture="torchvision:resnet18", arguments=arguments, size=32)
    assert torch.allclose(zoo.classifier(0).logits(images(1, size=32)), network(images(1, size=32)), atol=1e-4)


def test_other_names_in_the_same_order_are_matched_where_the_entry_says_so(tmp_path: Path) -> None:
    network = CifarResNet(8, 3).eval()
    renamed = {
        name.replace("layer", "stage").replace("fc", "linear"): value for name, value in network.state_dict().items()
    }
    with pytest.raises(ZooMemberError, match="does not fit cifar_resnet:8"):
        member_zoo(tmp_path, renamed, architecture="cifar_resnet:8")[0]
    member = open_zoo(tmp_path, architecture="cifar_resnet:8", match="order").classifier(0)
    assert torch.allclose(member.logits(images(2, size=8)), network(images(2, size=8)), atol=1e-5)


@pytest.mark.parametrize("output", ["sigmoid", "logit"])
def test_one_grey_output_is_a_member_of_two_classes(tmp_path: Path, output: str) -> None:
    layers = ["Flatten", "Linear(48, 1)", *(["Sigmoid"] if output == "sigmoid" else [])]
    network = build_layers(layers)
    options = {"architecture": layers, "output": output, "labels": ("no", "yes"), "channels": 1, "size": (6, 8)}
    member = member_zoo(tmp_path, network, **options).classifier(0)
    grey = images(1, size=8)[:, :1]
    inside = nn.functional.interpolate(grey, (6, 8), mode="bilinear", antialias=True)
    expected = network[:2](inside).sigmoid()
    assert torch.allclose(member.predict_proba(grey.repeat(1, 3, 1, 1))[:, 1:], expected, atol=1e-5)


def test_a_network_of_its_owner_runs_only_if_the_user_names_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "net.py").write_text(f"{OWNER}\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    weights = {"conv.weight": torch.ones(2, 3, 3, 3), "conv.bias": torch.ones(2)}
    weights |= {"fc.weight": torch.randn(3, 72), "fc.bias": torch.ones(3)}
    digest = sha256(tmp_path / "zoo" / "net.py")
    entry = {"network": "net.py:Net", "network_sha256": digest, "arguments": {"width": 2}}
    with pytest.raises(ZooMemberError, match=r"repeat it: --network net=net.py:Net"):
        member_zoo(tmp_path / "zoo", weights, **entry)
    with pytest.raises(ZooMemberError, match="you named other"):
        open_zoo(tmp_path / "zoo", {"net": "other.py:Net"}, **entry)
    with pytest.raises(UsageError, match="no member 'nett'"):
        open_zoo(tmp_path / "zoo", {"nett": "zoo/net.py:Net"}, architecture=LAYERS)
    assert not (tmp_path / "ran").exists()
    named = {"net": "zoo/net.py:Net"}
    assert open_zoo(tmp_path / "zoo", named, **entry).classifier(0).logits(images(2, size=8)).shape == (2, 3)
    assert (tmp_path / "ran").exists()
    (tmp_path / "zoo" / "net.py").write_text(OWNER)
    with pytest.raises(ZooMemberError, match="has changed"):
        open_zoo(tmp_path / "zoo", named, **entry)[0]


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ZooMemberError, match="another SHA-256"):
        member_zoo(tmp_path, build_layers(LAYERS), architecture=LAYERS, sha256="0" * 64)[0]
    digest = sha256(tmp_path / "files" / "net.pth")
    assert open_zoo(tmp_path, architecture=LAYERS, sha256=digest)[0].labels == ("0", "1", "2")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"path": "files/none.pth"}, "no such file"),
        ({"architecture": "torchvision:fasterrcnn_resnet50_fpn"}, "torchvision has no classifier"),
        ({"architecture": "nosuch:resnet18"}, "expected FAMILY:NAME"),
        ({"architecture": "cifar_resnet:21"}, "20, ..."),
        ({"architecture": "torchvision:resnet18", "arguments": {"weights": "DEFAULT"}}, "not accepted"),
        ({"architecture": "torchvision:resnet18", "arguments": {"replace": {"nosuch": "ReLU"}}}, "no module 'nosuch'"),
        ({"architecture": LAYERS[:-1]}, "fc.bias is not part of"),
        ({"architecture": LAYERS, "labels": 4}, "expected finite logits of shape"),
        ({"architecture": LAYERS, "labels": None}, "labels: expected"),
        ({"architecture": LAYERS, "labels": ("a", "a", "b")}, "distinct labels"),
        ({"architecture": LAYERS, "output": "sigmoid", "labels": 2}, "expected"),
        ({"format": "nosuch"}, "no format 'nosuch'"),
    ],
)
def test_a_wrong_entry_says_what_is_wrong(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ZooError, match=words):
        member_zoo(tmp_path, build_layers(LAYERS), **entry)[0]


def test_an_entry_may_name_a_folder_that_describes_itself(zoo_maker: ZooMaker, tmp_path: Path) -> None:
    folder, _ = zoo_maker.member("lab")
    entry = ManifestMember(path=str(folder), name="renamed", format="timm")
    write_manifest(tmp_path / "other", Manifest(members=(entry,)))
    zoo = Zoo.open(tmp_path / "other")
    assert (zoo.name(0), zoo[0].labels) == ("renamed", ("ant", "bee", "cat"))


def test_members_of_the_manifest_stand_beside_folders_and_survive_saving(zoo_maker: ZooMaker, tmp_path: Path) -> None:
    zoo_maker.member("lab")
    zoo = member_zoo(zoo_maker.path / "sub", build_layers(LAYERS), architecture=LAYERS)
    assert [zoo.name(index) for index in range(len(zoo))] == ["net"]
    entry = ManifestMember(path="sub/files/net.pth", labels=3, size=8, architecture=LAYERS)
    write_manifest(zoo_maker.path, Manifest(members=(entry,)))
    both = Zoo.open(zoo_maker.path)
    assert [both.name(index) for index in range(len(both))] == ["lab", "net"]
    assert len(both.groups()) == 2
    learner = dfml.ZooEmbedding().fit(both)
    learner.save_pretrained(tmp_path / "learner")
    assert dfml.MetaLearner.from_pretrained(tmp_path / "learner").kind == "zoo_embedding"
