"""Services behind an address, as entries in `zoo.yaml`: `path` is the address, `arguments` has the limit of queries.

`arguments`: `limit`, the largest number of images that may be sent to the service in one process (required), and
`encoding`, `batch`, `timeout`, `retries` and `backoff` of `dfml.zoo.http_member.HttpClassifier`. Headers are given in
Python only, so that no secret stands in a zoo.

The images that a service is asked about leave this machine, or reach a server on it, and a zoo of somebody else comes
with a `zoo.yaml` of its own. So an entry is not enough: the user must also name the host in the environment variable
`DFML_ALLOW_HOSTS`.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from torch import nn

from dfml.errors import ConfigError, ZooMemberError
from dfml.zoo.formats import MemberConfig
from dfml.zoo.http_member import HttpClassifier
from dfml.zoo.members import CountedMember, Predicts

ALLOWED = "DFML_ALLOW_HOSTS"
"""Environment variable with the hosts that services in a `zoo.yaml` may be queried at: `HOST`, or `HOST:PORT` where the
address states a port; several are separated by commas."""

_SETTINGS = frozenset({"encoding", "batch", "timeout", "retries", "backoff"})


class HttpFormat:
    """Members that predict behind an address."""

    name = "http"
    may_only_predict = True

    def recognises(self, path: Path) -> bool:
        """False: an address is a member by its entry in `zoo.yaml` alone."""
        return False

    def read_config(self, path: Path) -> MemberConfig:
        """Refuse: an address does not describe itself.

        Raises:
            ZooMemberError: Always.
        """
        raise ZooMemberError(path, "a service needs an entry in zoo.yaml", "write one, with `format: http`")

    def load(self, config: MemberConfig) -> nn.Module | Predicts:
        """The service, with a limit on its queries; it is not queried yet.

        Raises:
            ZooMemberError: If the entry has no limit or a wrong setting, or the user has not allowed its host.
        """
        entry, arguments = config.entry, dict(config.arguments)
        limit = arguments.pop("limit", None)
        unknown = sorted(arguments.keys() - _SETTINGS)
        if entry is None or isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            reason = f"expected `limit` in its arguments, the largest number of images to ask about, found {limit!r}"
        elif unknown:
            reason = f"its arguments have no {', '.join(unknown)}; known are limit, {', '.join(sorted(_SETTINGS))}"
        else:
            try:
                service = HttpClassifier(entry.path, config.labels, config.preprocessing, **arguments)
            except (ConfigError, TypeError) as error:
                reason = str(error)
            else:
                _require_consent(config.path, entry.path)
                return CountedMember(service, limit)
        raise ZooMemberError(config.path, reason, "correct its entry in zoo.yaml")


FORMAT = HttpFormat()


def _require_consent(member: Path, address: str) -> None:
    """Check that the user has allowed the host of an address, whichever it is: this machine has services, too.

    Raises:
        ZooMemberError: If not, or the address has no host.
    """
    try:
        parts = urlsplit(address)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        host, port = "", None
    if not host:
        raise ZooMemberError(member, f"expected an address with a host, found {address!r}", "correct it in zoo.yaml")
    place = host if port is None else f"{host}:{port}"
    if place not in [each.strip().lower() for each in os.environ.get(ALLOWED, "").split(",")]:
        reason = f"the images that it is asked about are sent to {place}, and only zoo.yaml says so"
        raise ZooMemberError(member, reason, f"if you want that, set {ALLOWED}={place}")
