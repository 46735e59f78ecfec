"""`Zoo`: an ordered, vetted collection of pre-trained classifiers, loaded when they are needed."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from dfml.errors import ConfigError, ZooError, ZooMemberError
from dfml.zoo.folder import member_paths
from dfml.zoo.formats import MemberConfig
from dfml.zoo.label_space import ClassIdentity, LabelSpace, build_label_space
from dfml.zoo.pretrained import Preprocessing, PretrainedClassifier
from dfml.zoo.stack import stack_key
from dfml.zoo.vetting import load_member, read_member_config


class Zoo:
    """Members in the order of their folders' names. Use `Zoo.open`, or `Zoo.of` for classifiers in memory.

    Attributes:
        classes: The label space across members.
        class_identity: What decided which of their classes are the same.
        configs: What every member says of itself; None for a member that was given in memory.
    """

    def __init__(
        self,
        configs: Sequence[MemberConfig | None],
        classes: LabelSpace,
        *,
        given: Mapping[int, PretrainedClassifier] | None = None,
        class_identity: ClassIdentity = "names",
        max_resident: int = 1024,
        path: Path | None = None,
    ) -> None:
        if max_resident < 1:
            raise ConfigError(f"max_resident must be at least 1, but is {max_resident}")
        self.member_configs = tuple(configs)
        self.classes = classes
        self.class_identity = class_identity
        self.path = path
        self.device = torch.device("cpu")
        self._given = dict(given or {})
        self._resident: OrderedDict[int, PretrainedClassifier] = OrderedDict()
        self._max_resident = max_resident

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        class_identity: ClassIdentity = "names",
        max_resident: int = 1024,
    ) -> Zoo:
        """Open a folder of members. Configurations are read and checked now, weights when a member is first used.

        Args:
            path: A folder that holds one folder a member (or is one member itself).
            class_identity: See `dfml.zoo.label_space.build_label_space`.
            max_resident: Members kept in memory at once; the one unused for longest makes room.

        Raises:
            ZooError: If there is no member; ZooMemberError, which is one, if a member's configuration is wrong.
            ConfigError: If `class_identity` cannot be used.
        """
        path = Path(path)
        configs = [read_member_config(member) for member in member_paths(path)]
        classes = build_label_space([(config.name, config.labels) for config in configs], class_identity)
        return cls(configs, classes, class_identity=class_identity, max_resident=max_resident, path=path)

    @classmethod
    def of(
        cls,
        classifiers: Sequence[PretrainedClassifier],
        *,
        class_identity: ClassIdentity = "names",
    ) -> Zoo:
        """A zoo of classifiers that are in memory already.

        Raises:
            ZooError: If there is none.
        """
        if not classifiers:
            raise ZooError("a zoo needs at least one classifier, but none was given")
        named = [(f"member-{index:03d}", classifier.labels) for index, classifier in enumerate(classifiers)]
        given = dict(enumerate(classifiers))
        classes = build_label_space(named, class_identity)
        return cls([None] * len(classifiers), classes, given=given, class_identity=class_identity)

    def __len__(self) -> int:
        """Number of members."""
        return len(self.member_configs)

    def __iter__(self) -> Iterator[PretrainedClassifier]:
        """The members, each loaded when its turn comes."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> PretrainedClassifier:
        """A member, on the zoo's device.

        Raises:
            ZooMemberError: If its weights cannot be used.
            IndexError: If there is no such member; negative indices count from the end.
        """
        index = range(len(self))[index]
        if index in self._given:
            return self._given[index]
        if index not in self._resident:
            config = self.member_configs[index]
            assert config is not None
            while len(self._resident) >= self._max_resident:
                self._resident.popitem(last=False)
            self._resident[index] = load_member(config).to(self.device)
        self._resident.move_to_end(index)
        return self._resident[index]

    def digest(self) -> str:
        """Eight hex digits that differ when a member has other weights or another preprocessing.

        Raises:
            ZooMemberError: If a member's weights cannot be used.
        """
        seen = 0
        for member in self:
            seen = zlib.crc32(repr(member.preprocessing).encode(), seen)
            for name, value in member.network.state_dict().items():
                seen = zlib.crc32(value.cpu().numpy().tobytes(), zlib.crc32(name.encode(), seen))
        return f"{seen:08x}"

    def to(self, device: torch.device) -> Zoo:
        """Move the members, resident and to come; returns itself."""
        self.device = device
        for member in (*self._given.values(), *self._resident.values()):
            member.to(device)
        return self

    def name(self, index: int) -> str:
        """A short name of a member, for messages and tables."""
        config = self.member_configs[index]
        return config.name if config else f"member-{index:03d}"

    def vet(self) -> None:
        """Load every member once, so that a bad one is reported before work starts.

        Raises:
            ZooMemberError: For the first member that cannot be used, with the number of others.
        """
        bad = [problem for index in range(len(self)) if (problem := self.problem(index))]
        if bad:
            more = f"{bad[0].fix} ({len(bad) - 1} more members cannot be used)" if len(bad) > 1 else bad[0].fix
            raise ZooMemberError(bad[0].path, bad[0].reason, more)

    def problem(self, index: int) -> ZooMemberError | None:
        """What is wrong with a member's weights, if anything."""
        try:
            self[index]
        except ZooMemberError as error:
            return error
        return None

    def groups(self) -> dict[tuple[str, int, int], list[int]]:
        """Members that can be evaluated in one batched call: same architecture, number of classes and input size."""
        groups: dict[tuple[str, int, int], list[int]] = {}
        for index in range(len(self)):
            config = self.member_configs[index]
            architecture = (
                f"{config.format} {config.architecture} {sorted(config.arguments.items())}"
                if config
                else stack_key(self[index])
            )
            labels, size = (config or self[index]).labels, (config or self[index]).preprocessing.size
            groups.setdefault((architecture, len(labels), size), []).append(index)
        return groups

    def preprocessing(self, size: int | None = None) -> Preprocessing:
        """One preprocessing for the whole zoo: the most common size unless given, mean and std averaged over members.

        A learner and the pseudo-images that all members share need one; members still normalise with their own.
        """
        each = [(config or self[index]).preprocessing for index, config in enumerate(self.member_configs)]
        sizes = [p.size for p in each]
        common = max(sorted(set(sizes)), key=sizes.count)

        def average(values: list[tuple[float, float, float]]) -> tuple[float, float, float]:
            columns = zip(*values, strict=True)
            red, green, blue = (round(sum(column) / len(values), 6) for column in columns)
            return red, green, blue

        return Preprocessing(size or common, average([p.mean for p in each]), average([p.std for p in each]))
