"""`HttpClassifier`: a classifier behind an address, queried in batches, with retries.

Protocol: the images of one query are sent as `POST` with a JSON object, and probabilities come back as one.

    request   {"images": [PNG in base64, ...]}                                 encoding "png"
              {"shape": [images, height, width, 3], "pixels": bytes in base64}  encoding "raw"; rows of red, green, blue
    response  {"probabilities": [[one number per label], ...]}                 one row per image, each with sum 1

Status 429 and 5xx, and failures of the connection, are retried; after `Retry-After` seconds where the service says so.
Any other status ends with an error, a redirection too: images and headers go to no other address.
"""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dfml.errors import ConfigError, ZooError
from dfml.images import to_bytes
from dfml.zoo.pretrained import Preprocessing

Encoding = Literal["png", "raw"]

_MAX_WAIT = 60.0  # seconds between two attempts, whatever the service asks for
_MAX_RESPONSE = 256 * 2**20
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpClassifier:
    """A member that only predicts, by asking a service. Wrap it in `dfml.zoo.CountedMember` to limit its queries.

    Args:
        address: An `http` or `https` address.
        labels: One name per probability.
        preprocessing: The size of the images that are sent; mean and standard deviation are not applied to them.
        encoding: How images are sent: `png` (lossless) or `raw`.
        batch: Largest number of images per request.
        timeout: Seconds to wait for a response.
        retries: Number of further attempts after one that failed.
        backoff: Seconds before the first further attempt; doubled before each one after it, at most 60.
        headers: Further headers, such as `Authorization`.
        sleep: What waits; for tests.

    Raises:
        ConfigError: If the address is of another kind, or a number is out of range.
    """

    def __init__(
        self,
        address: str,
        labels: tuple[str, ...],
        preprocessing: Preprocessing,
        *,
        encoding: Encoding = "png",
        batch: int = 32,
        timeout: float = 30.0,
        retries: int = 4,
        backoff: float = 0.5,
        headers: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"expected an address that starts with http:// or https://, found {address!r}")
        if encoding not in ("png", "raw"):
            raise ConfigError(f"expected the encoding png or raw, found {encoding!r}")
        if batch < 1 or retries < 0 or not timeout > 0 or not backoff >= 0:
            found = f"batch {batch}, retries {retries}, timeout {timeout}, backoff {backoff}"
            raise ConfigError(
                f"expected batch from 1, retries from 0, a positive timeout, backoff from 0; found {found}"
            )
        self.source = address
        self.labels = labels
        self.preprocessing = preprocessing
        self._encoding, self._batch, self._timeout = encoding, batch, timeout
        self._retries, self._backoff, self._sleep = retries, backoff, sleep
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", **(headers or {})}
        self._opener = urllib.request.build_opener(_NoRedirection())

    def predict_proba(self, images: Float[Tensor, "images 3 _height _width"]) -> Float[Tensor, "images labels"]:
        """Class probabilities of any number of images in [0, 1] of any size, on the images' device.

        Raises:
            ZooError: If the service cannot be reached after all attempts, refuses, or answers in another form.
        """
        pixels = to_bytes(self.preprocessing.resize(images.float())).cpu()
        rows = [self._query(part) for part in torch.split(pixels, self._batch)] if len(pixels) else []
        return torch.cat([torch.zeros(0, len(self.labels)), *rows]).to(images.device)

    def _query(self, pixels: UInt8[Tensor, "images 3 height width"]) -> Tensor:
        body = json.dumps(encode(pixels, self._encoding)).encode()
        content = self._post(body)
        try:
            answer = json.loads(content)
            found = torch.tensor(answer["probabilities"], dtype=torch.float32)
        except (ValueError, TypeError, KeyError, RecursionError, RuntimeError) as error:
            raise ZooError(
                f'zoo member {self.source}: expected {{"probabilities": [[...], ...]}}, found '
                f"{content[:80]!r}; see dfml.zoo.http_member for the protocol"
            ) from error
        expected = (len(pixels), len(self.labels))
        if found.shape != expected:
            raise ZooError(
                f"zoo member {self.source}: expected probabilities of shape {expected}, found {tuple(found.shape)}; "
                "correct its labels"
            )
        return found

    def _post(self, body: bytes) -> bytes:
        for attempt in range(self._retries + 1):
            wait = self._backoff * 2**attempt
            request = urllib.request.Request(self.source, data=body, headers=self._headers, method="POST")
            try:
                with self._opener.open(request, timeout=self._timeout) as response:
                    content: bytes = response.read(_MAX_RESPONSE + 1)
                if len(content) > _MAX_RESPONSE:
                    raise ZooError(f"zoo member {self.source}: its response has more than {_MAX_RESPONSE} bytes")
                return content
            except urllib.error.HTTPError as error:
                reason = f"status {error.code}"
                if error.code not in _RETRIED:
                    fix = "check the address, and its headers in Python"
                    raise ZooError(f"zoo member {self.source}: the service refuses with {reason}; {fix}") from error
                wait = max(wait, _seconds(error.headers.get("Retry-After")))
            except OSError as error:  # connection refused, reset, or timed out
                reason = " ".join(str(error).split()) or type(error).__name__
            if attempt < self._retries:
                self._sleep(min(wait, _MAX_WAIT))
        attempts = f"{self._retries + 1} attempts"
        raise ZooError(f"zoo member {self.source}: no answer after {attempts} ({reason}); check that it runs, or wait")


def encode(pixels: UInt8[Tensor, "images 3 height width"], encoding: Encoding) -> dict[str, Any]:
    """The JSON object that is sent for some images; see the protocol."""
    if encoding == "raw":
        rows = pixels.permute(0, 2, 3, 1).contiguous()
        return {"shape": list(rows.shape), "pixels": base64.b64encode(rows.numpy().tobytes()).decode()}
    return {"images": [_png(image) for image in pixels]}


def _png(pixels: UInt8[Tensor, "3 height width"]) -> str:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        """None: the redirection is an error."""


def _seconds(value: str | None) -> float:
    """Seconds of a `Retry-After` header; 0 for a date, or anything else."""
    return float(value) if value and value.strip().isdecimal() else 0.0
