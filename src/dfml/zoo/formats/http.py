"""Services behind an address, as entries in `zoo.yaml`: `path` is the address, `arguments` has the limit of queries.

`arguments`: `limit`, the largest number of images that may be sent to the service in one process (required), and
`encoding`, `batch`, `timeout`, `retries` and `backoff` of `dfml.zoo.http_member.HttpClassifier`. Headers are given in
Python only, so that no secret stands in a zoo.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from dfml.errors import ConfigError, ZooMemberError
from dfml.zoo.formats import MemberConfig
from dfml.zoo.http_member import HttpClassifier
from dfml.zoo.members import CountedMember, Predicts

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
            ZooMemberError: If the entry has no limit, or a wrong setting.
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
                return CountedMember(service, limit)
        raise ZooMemberError(config.path, reason, "correct its entry in zoo.yaml")


FORMAT = HttpFormat()
