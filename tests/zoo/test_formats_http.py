"""A service as an entry of `zoo.yaml`: limited, not queried when it is vetted, and a teacher like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dfml.errors import QueryLimitError, ZooMemberError
from dfml.methods.purer import PURER
from dfml.methods.zoo_student import ZooStudent
from dfml.zoo import CountedMember, Zoo
from dfml.zoo.formats.http import ALLOWED
from dfml.zoo.inspection import inspect_zoo
from tests.factories import SIZE, member, write
from tests.zoo.test_http_member import LABELS, Service, service  # noqa: F401


@pytest.fixture(autouse=True)
def consent(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The user allows the test's service, and one whose address nobody has."""
    hosts = ["127.0.0.1:1"]
    if "service" in request.fixturenames:
        hosts.append(request.getfixturevalue("service").address.split("/")[2])
    monkeypatch.setenv(ALLOWED, ",".join(hosts))


ENTRY: dict[str, Any] = {"name": "service", "format": "http", "labels": list(LABELS), "size": 8}


def write_entry(zoo: Path, address: str, **changes: Any) -> Path:
    zoo.mkdir(exist_ok=True)
    entry = {**ENTRY, "path": address, "arguments": {"limit": 1000, "batch": 8}, **changes}
    (zoo / "zoo.yaml").write_text(yaml.safe_dump({"members": [entry]}))
    return zoo


def test_a_zoo_with_a_service_trains_and_asks_for_no_more_than_its_limit(
    service: Service,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = write_entry(tmp_path / "zoo", service.address)
    for seed in (1, 2):
        write(path / f"m{seed}", member(seed, LABELS))
    report = inspect_zoo(path)
    assert [(row.name, row.problem) for row in report.members] == [("m1", None), ("m2", None), ("service", None)]
    assert "only predicts" in report.members[2].warnings[0]
    assert not service.requests  # neither listing nor vetting costs a query
    zoo = Zoo.open(path)
    zoo.vet()
    assert not service.requests
    student = ZooStudent(
        iterations=2, student_steps=2, images_per_class=2, backbone_arguments={"channels": [8, 8, 8, 8]}
    )
    learner = student.fit(zoo, device="cpu")
    assert learner.embed(torch.rand(2, 3, SIZE, SIZE)).shape[1] == 9
    counted = zoo[2]
    assert isinstance(counted, CountedMember)
    assert 0 < counted.queried <= 1000
    run = PURER(iterations=1, way=2, shot=1).start(zoo, torch.device("cpu"))
    assert ["service is not inverted: it only predicts" in message for message in run.pop_messages()] == [True]
    run.step(1)


def test_the_limit_holds(service: Service, tmp_path: Path) -> None:  # noqa: F811
    zoo = Zoo.open(write_entry(tmp_path / "zoo", service.address, arguments={"limit": 3}))
    zoo[0].predict_proba(torch.rand(3, 3, 8, 8))
    with pytest.raises(QueryLimitError):
        zoo[0].predict_proba(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arguments": {}}, "expected `limit`"),
        ({"arguments": {"limit": 0}}, "expected `limit`"),
        ({"arguments": {"limit": True}}, "expected `limit`"),
        ({"arguments": {"limit": 9, "headers": {"Authorization": "x"}}}, "have no headers; known are limit"),
        ({"arguments": {"limit": 9, "batch": 0}}, "batch from 1"),
        ({"path": "ftp://127.0.0.1/a"}, "no such file"),
    ],
)
def test_wrong_entries_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ZooMemberError, match=reason):
        Zoo.open(write_entry(tmp_path / "zoo", "http://127.0.0.1:1/", **changes))[0]


@pytest.mark.parametrize(
    "allowed", [None, "", "example.org", "127.0.0.1", "127.0.0.1:2, localhost:1", "user@127.0.0.1:1"]
)
def test_a_host_that_the_user_has_not_named_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str | None
) -> None:
    monkeypatch.delenv(ALLOWED)
    if allowed is not None:
        monkeypatch.setenv(ALLOWED, allowed)
    with pytest.raises(ZooMemberError, match=rf"are sent to 127\.0\.0\.1:1.*set {ALLOWED}=127\.0\.0\.1:1"):
        Zoo.open(write_entry(tmp_path / "zoo", "http://127.0.0.1:1/"))[0]


@pytest.mark.parametrize("address", ["http://example.org@127.0.0.1:1/", "http://127.0.0.1:1/?example.org"])
def test_only_the_host_of_an_address_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(ALLOWED, "example.org")
    with pytest.raises(ZooMemberError, match=r"are sent to 127\.0\.0\.1:1"):
        Zoo.open(write_entry(tmp_path / "zoo", address))[0]
    monkeypatch.setenv(ALLOWED, "example.org, 127.0.0.1:1")
    assert Zoo.open(tmp_path / "zoo")[0].labels == LABELS


def test_an_address_without_a_host_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ZooMemberError, match="an address with a host"):
        Zoo.open(write_entry(tmp_path / "zoo", "http:///x"))[0]
