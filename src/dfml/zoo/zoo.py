"""`Zoo`: an ordered collection of members, which are loaded and checked when they are first used."""

from __future__ import annotations

import functools
import zlib
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from dfml.errors import ConfigError, ZooError, ZooMemberError
from dfml.zoo.folder import named_members
from dfml.zoo.formats import MemberConfig, format_named
from dfml.zoo.hub import absolute_path, is_hub_id
from dfml.zoo.label_space import ClassIdentity, LabelSpace, build_label_space
from dfml.zoo.members import Predicts, move_member
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.stack import stack_key
from dfml.zoo.usable_members import OnBadMember, raise_problems, read_usable
from dfml.zoo.vetting import load_member, weight_digest

MAX_RESIDENT = 1024
"""Largest number of members that a zoo keeps in memory unless another is stated."""


class Zoo:
    """Members in the order of their names. Create it with `Zoo.open`, or with `Zoo.of` from members in memory.

    Attributes:
        classes: The label space across members.
        class_identity: The rule or mapping that `classes` was built with.
        member_configs: For every member its configuration, or None if it was given in memory.
        paths: The zoo's folders, usually one; none for a zoo in memory.
        left_out: Name of a member that was left out when the zoo was opened -> why.
        device: The device that members are loaded to.
    """

    def __init__(
        self,
        configs: Sequence[MemberConfig | None],
        classes: LabelSpace,
        *,
        in_memory: Mapping[int, Predicts] | None = None,
        class_identity: ClassIdentity = "names",
        max_resident: int = MAX_RESIDENT,
        names: Sequence[str] | None = None,
        paths: Sequence[Path] = (),
    ) -> None:
        if max_resident < 1:
            raise ConfigError(f"max_resident must be at least 1, but is {max_resident}")
        self.member_configs = tuple(configs)
        self.classes = classes
        self.class_identity = class_identity
        self.paths = tuple(paths)
        self.left_out: Mapping[str, str] = {}
        self.device = torch.device("cpu")
        self._names = list(names) if names else [f"member-{index:03d}" for index in range(len(configs))]
        self._in_memory = dict(in_memory or {})
        self._resident: OrderedDict[int, Predicts] = OrderedDict()
        self._max_resident = max_resident
        self._digests: tuple[str, tuple[str, ...]] | None = None

    @classmethod
    def open(
        cls,
        path: str | Path | Sequence[str | Path],
        *,
        class_identity: ClassIdentity = "names",
        max_resident: int = MAX_RESIDENT,
        networks: Mapping[str, str] | None = None,
        on_bad_member: OnBadMember = "fail",
        leave_out: Collection[str] = (),
    ) -> Zoo:
        """Open a folder of members. Configurations are read and checked now, weights when a member is first used.

        Where a configuration is wrong, and with `on_bad_member="skip"`, all weights are read and checked now too.

        Args:
            path: A folder with one file or folder per member, or with a manifest (`zoo.yaml`); the path of a single
                member; or `hf:OWNER/NAME[@REVISION]`, a member on the Hugging Face Hub. Several paths become one zoo,
                in this order; its members are then named `FOLDER/MEMBER`.
            class_identity: Which outputs are the same class: `names`, `distinct` or a mapping; see
                `dfml.zoo.label_space.build_label_space`.
            max_resident: Largest number of members in memory at once; the least recently used one is dropped, and read
                again when it is needed. Results do not depend on it.
            networks: Name of a member -> `FILE.py:CLASS`, the network's class in its owner's Python file, which is run.
                Needed for members whose manifest entry names such a file: the manifest alone cannot make it run.
            on_bad_member: What to do about members that cannot be used: `fail`, an error that lists all of them; or
                `skip`, leave them out (`left_out`).
            leave_out: Names of members that are left out without being read, such as those of `left_out` of a zoo that
                was opened before.

        Raises:
            ZooError: If there is no member, or none can be used; `ZooMemberError`, a subclass, if a member's
                configuration is wrong; `ZooMembersError`, another one, if several members cannot be used.
            ConfigError: If `class_identity` cannot be used, or `max_resident` is below 1.
            UsageError: If `networks` has the name of no member.
        """
        given = [path] if isinstance(path, str | Path) else path
        paths = [absolute_path(each) if is_hub_id(each) else Path(each) for each in given]
        found = named_members(paths)
        usable = read_usable(found, networks, on_bad_member=on_bad_member, leave_out=leave_out, max_loaded=max_resident)
        names, configs = list(usable.configs), list(usable.configs.values())
        classes = build_label_space([(name, usable.configs[name].labels) for name in names], class_identity)
        zoo = cls(configs, classes, class_identity=class_identity, max_resident=max_resident, names=names, paths=paths)
        zoo.left_out = usable.left_out
        zoo._resident = OrderedDict((i, usable.loaded[name]) for i, name in enumerate(names) if name in usable.loaded)
        return zoo

    @classmethod
    def of(
        cls,
        members: Sequence[Predicts],
        *,
        class_identity: ClassIdentity = "names",
    ) -> Zoo:
        """Make a zoo of members in memory, named `member-000` and so on; any object with the protocol `Predicts`.

        Raises:
            ZooError: If there is no member, or one lacks a part of `Predicts`.
            ConfigError: If `class_identity` cannot be used.
        """
        if not members:
            raise ZooError("a zoo needs at least one classifier, but none was given")
        for index, member in enumerate(members):
            if not isinstance(member, Predicts):
                raise ZooError(
                    f"member {index} of the zoo: expected labels, preprocessing, source and predict_proba "
                    f"(dfml.zoo.Predicts), found {type(member).__name__}"
                )
        named = [(f"member-{index:03d}", member.labels) for index, member in enumerate(members)]
        classes = build_label_space(named, class_identity)
        return cls([None] * len(members), classes, in_memory=dict(enumerate(members)), class_identity=class_identity)

    def __len__(self) -> int:
        """Number of members."""
        return len(self.member_configs)

    def __iter__(self) -> Iterator[Predicts]:
        """The members in order; each is loaded when it is reached."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Predicts:
        """A member, moved to the zoo's device; a `PretrainedClassifier` unless it only predicts.

        Raises:
            ZooMemberError: If its weights cannot be used.
            IndexError: If there is no such member; negative indices count from the end.
        """
        index = range(len(self))[index]
        if index in self._in_memory:
            return self._in_memory[index]
        if index not in self._resident:
            config = self.member_configs[index]
            assert config is not None
            while len(self._resident) >= self._max_resident:
                self._resident.popitem(last=False)
            self._resident[index] = load_member(config)
            move_member(self._resident[index], self.device)
        self._resident.move_to_end(index)
        return self._resident[index]

    def classifier(self, index: int) -> PretrainedClassifier:
        """A member as a `PretrainedClassifier`: for inversion, and for methods that use the members' weights.

        Raises:
            ZooError: If the member only predicts, or its weights cannot be used.
            IndexError: If there is no such member.
        """
        member = self[index]
        if not isinstance(member, PretrainedClassifier):
            raise ZooError(
                f"zoo member {self.name(index)} ({member.source}) has no network that dfml can see, which is needed "
                "here; leave it out, or use it as a teacher in zoo_student or in zoo_embedding"
            )
        return member

    def has_network(self, index: int) -> bool:
        """Whether a member is certainly a `PretrainedClassifier`; decided by its format, without loading it.

        Raises:
            ZooError: If the member's format is not registered any more.
        """
        config = self.member_configs[index]
        if config is None:
            return isinstance(self[index], PretrainedClassifier)
        return not getattr(format_named(config.format), "may_only_predict", False)

    def classifiers(self) -> Iterator[PretrainedClassifier]:
        """All members, each by `classifier`."""
        return (self.classifier(index) for index in range(len(self)))

    def digest(self) -> str:
        """Eight hexadecimal digits (CRC-32) that change with the members' weights and preprocessing.

        Members that are no `PretrainedClassifier` contribute their source and labels too. The weights of one that is no
        `nn.Module` count only if they are in a file.

        Raises:
            ZooMemberError: If a member's weights cannot be used.
        """
        return self._read_digests()[0]

    def member_digests(self) -> tuple[str, ...]:
        """For every member eight hex digits that change with its weights, labels and preprocessing.

        Raises:
            ZooMemberError: If a member's weights cannot be used.
        """
        return self._read_digests()[1]

    def _read_digests(self) -> tuple[str, tuple[str, ...]]:
        """Digest of the zoo and of each member, in one pass: in a large zoo, each member is read from the disk."""
        if self._digests is None:
            checksum, own = 0, []
            for config, member in zip(self.member_configs, self, strict=True):
                parts = list(_content(config, member))
                for part in parts:
                    checksum = zlib.crc32(part, checksum)
                labels = repr(member.labels).encode()
                own.append(f"{functools.reduce(lambda sum, part: zlib.crc32(part, sum), [labels, *parts], 0):08x}")
            self._digests = f"{checksum:08x}", tuple(own)
        return self._digests

    def provenance(self) -> list[dict[str, str]]:
        """Name of every member and, where it has a weight file, its SHA-256 as hex digits; no paths."""
        digests = [weight_digest(config.path) if config else None for config in self.member_configs]
        return [
            {"name": name, **({"sha256": digest} if digest else {})}
            for name, digest in zip(self._names, digests, strict=True)
        ]

    def to(self, device: torch.device) -> Zoo:
        """Move all members, also those that are loaded later; returns itself."""
        self.device = device
        for member in (*self._in_memory.values(), *self._resident.values()):
            move_member(member, device)
        return self

    def name(self, index: int) -> str:
        """A member's short name, for messages and tables."""
        return self._names[index]

    def vet(self) -> None:
        """Load every member once, so that one that cannot be loaded is reported before work starts.

        Raises:
            ZooMemberError: If one member cannot be used.
            ZooMembersError: If several cannot.
        """
        raise_problems([problem for index in range(len(self)) if (problem := self.problem(index))], len(self))

    def problem(self, index: int) -> ZooMemberError | None:
        """The error that loading a member raises, as a return value; None if it can be loaded."""
        try:
            self[index]
        except ZooMemberError as error:
            return error
        return None

    @property
    def source(self) -> str:
        """The zoo's folders, for messages and reports; `memory` for a zoo in memory."""
        return ", ".join(map(str, self.paths)) or "memory"

    def groups(self) -> dict[tuple[str, int, int], list[int]]:
        """Members that can be evaluated in one batched call: same architecture, number of classes and input size.

        A member for which `has_network` is False has a group of its own.

        Returns:
            (text that identifies the architecture, number of classes, input size) -> indices of members.
        """
        groups: dict[tuple[str, int, int], list[int]] = {}
        for index, config in enumerate(self.member_configs):
            if config and not self.has_network(index):
                architecture = f"member {index}"
            elif config:
                architecture = config.network_key
            else:
                member = self[index]
                architecture = stack_key(member) if isinstance(member, PretrainedClassifier) else f"member {index}"
            described = config or self[index]
            key = architecture, len(described.labels), described.preprocessing.size
            groups.setdefault(key, []).append(index)
        return groups

    def preprocessing(self, size: int | None = None) -> Preprocessing:
        """Preprocessing of a learner of this zoo, and of images that several members share.

        Members keep their own: they resize and normalise what they are given themselves.

        Args:
            size: Height and width in pixels (the setting `img_size` of a method, `dfml train --size`); None: the
                members' most common input size, the larger one on a tie.

        Returns:
            The size, and the mean and standard deviation averaged over members.
        """
        own = [(config or self[index]).preprocessing for index, config in enumerate(self.member_configs)]

        def average(values: list[tuple[float, float, float]]) -> tuple[float, float, float]:
            columns = zip(*values, strict=True)
            red, green, blue = (round(sum(column) / len(values), 6) for column in columns)
            return red, green, blue

        return Preprocessing(
            size or common_size([p.size for p in own]), average([p.mean for p in own]), average([p.std for p in own])
        )


def common_size(sizes: Sequence[int]) -> int:
    """Return the most common of some sizes, the larger one on a tie."""
    counts = Counter(sizes)
    return max(counts, key=lambda size: (counts[size], size))


def _content(config: MemberConfig | None, member: Predicts) -> Iterator[bytes]:
    """What a digest of a member is made of: the bytes of its weights, with their names, and its preprocessing."""
    if config and not isinstance(member, nn.Module) and (weights := weight_digest(config.path)):
        yield weights.encode()
    identity = member.preprocessing if isinstance(member, PretrainedClassifier) else _description(member)
    yield repr(identity).encode()
    module = member.network if isinstance(member, PretrainedClassifier) else member
    for name, value in module.state_dict().items() if isinstance(module, nn.Module) else ():
        yield name.encode()
        yield value.cpu().numpy().tobytes()


def _description(member: Predicts) -> tuple[str, tuple[str, ...], Preprocessing]:
    return member.source, member.labels, member.preprocessing
