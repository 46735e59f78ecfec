"""A service behind an address: protocol, batches, retries and errors, against a server of this process."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from PIL import Image

from dfml.errors import ConfigError, QueryLimitError, ZooError
from dfml.zoo import CountedMember, Predicts, Preprocessing
from dfml.zoo.http_member import HttpClassifier
from dfml.zoo.members import teacher_logits
from tests.factories import images

LABELS = ("red", "green", "blue")
PREPARATION = Preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def decode(request: dict[str, Any]) -> np.ndarray:
    if "pixels" in request:
        return np.frombuffer(base64.b64decode(request["pixels"]), dtype=np.uint8).reshape(request["shape"])
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))) for image in request["images"]])


def probabilities(pixels: np.ndarray) -> np.ndarray:
    """A softmax of mean colours."""
    means = np.exp(pixels.mean(axis=(1, 2)) / 25.5)
    return means / means.sum(axis=1, keepdims=True)


class Service:
    """A server whose next answers can be set: (status, headers, content) each, or None to classify."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[tuple[int, dict[str, str], bytes] | None] = []
        self.waits: list[float] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                service.requests.append(json.loads(content))
                service.headers.append(dict(self.headers))
                status, headers, answer = (service.answers.pop(0) if service.answers else None) or (200, {}, b"")
                if status == 200 and not answer:
                    answer = json.dumps(
                        {"probabilities": probabilities(decode(service.requests[-1])).tolist()}
                    ).encode()
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/classify"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def member(self, **settings: Any) -> HttpClassifier:
        return HttpClassifier(self.address, LABELS, PREPARATION, sleep=self.waits.append, **settings)


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.server.shutdown()
    service.thread.join()
    service.server.server_close()


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_images_are_sent_in_batches_and_probabilities_come_back(service: Service, encoding: Any) -> None:
    member = service.member(encoding=encoding, batch=3, headers={"Authorization": "Bearer secret"})
    assert isinstance(member, Predicts)
    sent = images(7, size=8)
    pixels = (sent * 255).round().byte()
    expected = probabilities(pixels.permute(0, 2, 3, 1).numpy())
    torch.testing.assert_close(member.predict_proba(sent), torch.from_numpy(expected).float(), rtol=0, atol=1e-6)
    assert [len(decode(request)) for request in service.requests] == [3, 3, 1]
    assert np.array_equal(np.concatenate([decode(r) for r in service.requests]), pixels.permute(0, 2, 3, 1).numpy())
    assert {headers["Authorization"] for headers in service.headers} == {"Bearer secret"}
    assert bool(teacher_logits(member, images(2, size=20)).isfinite().all())  # another size: resized before
    assert member.predict_proba(images(0, size=8)).shape == (0, 3)


def test_a_service_that_is_busy_is_asked_again_and_later(service: Service) -> None:
    service.answers = [(503, {}, b""), (429, {"Retry-After": "7"}, b""), (500, {"Retry-After": "10000"}, b""), None]
    assert service.member(backoff=0.5).predict_proba(images(1, size=8)).shape == (1, 3)
    assert service.waits == [0.5, 7.0, 60.0]
    assert len(service.requests) == 4
    assert service.requests[0] == service.requests[-1]


def test_it_gives_up_after_all_attempts(service: Service) -> None:
    service.answers = [(503, {}, b"")] * 9
    with pytest.raises(ZooError, match=r"classify: no answer after 3 attempts \(status 503\)"):
        service.member(retries=2).predict_proba(images(1, size=8))
    assert len(service.requests) == 3
    assert service.waits == [0.5, 1.0]


def test_nobody_there_is_one_line(service: Service) -> None:
    unused = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    unused.server_close()
    member = HttpClassifier(
        f"http://127.0.0.1:{unused.server_port}", LABELS, PREPARATION, retries=1, sleep=service.waits.append
    )
    with pytest.raises(ZooError, match="no answer after 2 attempts"):
        member.predict_proba(images(1, size=8))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((401, {}, b""), "refuses with status 401"),
        ((302, {"Location": "http://127.0.0.1:1/elsewhere"}, b""), "refuses with status 302"),
        ((200, {}, b"not json"), "expected .* found b'not json'"),
        ((200, {}, b"[" * 100_000), "expected .* found"),
        ((200, {}, b'{"logits": [[1, 2, 3]]}'), "expected .* found"),
        ((200, {}, b'{"probabilities": "many"}'), "expected .* found"),
        ((200, {}, b'{"probabilities": [[1, 0]]}'), r"shape \(1, 3\), found \(1, 2\)"),
        ((200, {}, b'{"probabilities": [[1, 0, 0], [1, 0, 0]]}'), r"shape \(1, 3\), found \(2, 3\)"),
        ((200, {}, b'{"probabilities": [[5, 0, 0]]}'), "with sum 1 in every row"),
        ((200, {}, b'{"probabilities": [[NaN, 0, 0]]}'), "with sum 1 in every row"),
    ],
)
def test_other_answers_are_errors_and_not_retried(service: Service, answer: Any, reason: str) -> None:
    service.answers = [answer]
    with pytest.raises(ZooError, match=reason):
        teacher_logits(service.member(), images(1, size=8))
    assert len(service.requests) == 1


def test_its_queries_can_be_limited(service: Service) -> None:
    member = CountedMember(service.member(batch=2), limit=5)
    member.predict_proba(images(4, size=8))
    with pytest.raises(QueryLimitError):
        member.predict_proba(images(2, size=8))
    assert len(service.requests) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: HttpClassifier("file:///etc/passwd", LABELS, PREPARATION),
        lambda: HttpClassifier("http://a", LABELS, PREPARATION, batch=0),
        lambda: HttpClassifier("http://a", LABELS, PREPARATION, timeout=0),
        lambda: HttpClassifier("http://a", LABELS, PREPARATION, encoding="jpeg"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], HttpClassifier]) -> None:
    with pytest.raises((ConfigError, TypeCheckError)):
        make()
