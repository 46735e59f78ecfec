"""The manifest `zoo.yaml`: describes members whose files do not describe themselves.

Weight files of other people rarely state their architecture, classes or preprocessing. The manifest has an entry for
each such member; members in self-describing folders need none. It is plain data: code that it names runs only if the
user allows that outside of the zoo, by `Zoo.open(networks=...)` or by DFML_ALLOW_CODE (`dfml.zoo.pinned_code`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, StringConstraints, field_validator, model_validator

from dfml.errors import ConfigError, DfmlError, ZooError
from dfml.files import atomic_write, open_regular_file
from dfml.images import Interpolation
from dfml.settings import FrozenSettings, build_config
from dfml.zoo.hub import is_hub_id
from dfml.zoo.label_files import read_labels
from dfml.zoo.pretrained import Preprocessing

MANIFEST = "zoo.yaml"
"""Name of the manifest in a zoo's folder."""

_SEPARATOR = "#"  # between the manifest and a member's name in the path of a member
_MAX_BYTES = 64 * 2**20
_MAX_EVENTS, _MAX_NESTING = 2_000_000, 32
_MAX_KEYS = 10_000  # of one mapping: numbers can be chosen such that a table of them takes quadratic time
_SCALE = {"0..1": 1.0, "0..255": 255.0}
_NAME = re.compile(r"[^\w.+=-]+")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1, le=4096)]
Values = Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]


class ManifestMember(FrozenSettings):
    """One entry of the manifest: a file, and all that is needed to use it as a classifier."""

    path: Annotated[str, StringConstraints(min_length=1)]
    """The member's file or folder: absolute, or relative to the zoo's folder. Or `hf:OWNER/NAME[@REVISION]`, a member
    on the Hugging Face Hub; or the address of a service, with the format `http`."""

    name: Annotated[str, StringConstraints(pattern=r"^[\w+=-][\w.+=-]{0,99}$")] | None = None
    """Name of the member, distinct within the zoo; None for the file's name without its ending."""

    format: str = "state_dict"
    """Name of the format (`dfml.zoo.formats`) that reads the file."""

    architecture: str | list[Any] = ""
    """Architecture: `torchvision:NAME`, `timm:NAME`, `cifar_resnet:DEPTH`, or a list of layers
    (`dfml.zoo.layer_lists`). Empty for formats that hold it themselves, and where `network` is given."""

    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the architecture. `replace` maps names of modules to the layers that stand in their place."""

    match: Literal["names", "order"] = "names"
    """How the file's tensors are assigned to the network's: by their names, or, where the same network was written with
    other names, by their order and shapes."""

    network: str | None = None
    """`FILE.py:CLASS`, the owner's description of the network. It counts only if the user repeats it when the zoo is
    opened."""

    network_sha256: Digest | None = None
    """SHA-256 of that Python file; another content is refused."""

    labels: int | str | tuple[str, ...] | None = None
    """Class names in the order of the outputs; or a file that holds them, relative to the zoo's folder
    (`dfml.zoo.label_files`); or, where nobody knows the names, the number of classes."""

    size: Side | tuple[Side, Side] = 224
    """Side length of the network's square input in pixels, or its height and width."""

    channels: Literal[1, 3] = 3
    """Channels of the network's input: 3 (red, green, blue), or 1 (grey)."""

    layout: Literal["nchw", "nhwc"] = "nchw"
    """Order of the input's axes: channels before or after height and width."""

    range: Literal["0..1", "0..255"] = "0..1"
    """Range of the pixels from which `mean` is subtracted."""

    mean: Values = (0.0,)
    """Mean of the pixels, in the unit of `range`: one value, or one per channel."""

    std: Values = (1.0,)
    """Standard deviation of the pixels, in the unit of `range`: one value, or one per channel; positive."""

    interpolation: Interpolation = "bilinear"
    """How images of another size are resized: `nearest`, `bilinear` or `bicubic` (the latter two antialiased)."""

    output: Literal["logits", "logit", "softmax", "log_softmax", "sigmoid"] = "logits"
    """What the network returns: logits, probabilities (`softmax`) or their logarithms; for two classes also one number,
    the logit (`logit`) or the probability (`sigmoid`) of the second class."""

    sha256: Digest | None = None
    """SHA-256 of the file; another content is refused. None: not checked."""

    allow_code: bool = False
    """Whether a file that runs code of its author when it is opened (TorchScript, `.pt2`) may be opened. It also needs
    `sha256` here, and the same digest in the environment variable DFML_ALLOW_CODE."""

    held_out_accuracy: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Accuracy on held-out images, a fraction, if the file or its owner states one."""

    evidence: dict[str, str] = Field(default_factory=dict)
    """Where a value of this entry comes from, by its subject: for example `preprocessing: confirmed by the user`."""

    @field_validator("labels", mode="before")
    @classmethod
    def _names_are_texts(cls, value: Any) -> Any:
        """Accept numbers as names: YAML reads an unquoted `7` as a number."""
        if isinstance(value, list | tuple):
            return tuple(
                str(name) if isinstance(name, int | float) and not isinstance(name, bool) else name for name in value
            )
        return value

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _one_value_is_enough(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _values_fit_together(self) -> ManifestMember:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{name} needs one value, or one per channel ({self.channels}), but has {len(values)}")
        if min(self.std) <= 0.0:
            raise ValueError(f"std must be positive, but is {self.std}")
        return self

    @property
    def member_name(self) -> str:
        """The name, or the file's name without its ending, with a `_` for characters that a name may not have."""
        return self.name or _NAME.sub("_", Path(self.path).stem).strip("._")[:100] or "member"

    def location(self, folder: Path) -> Path:
        """Path of the file or folder, or `hf:OWNER/NAME[@REVISION]`; `folder` is the zoo's."""
        return Path(self.path) if is_hub_id(self.path) else folder / self.path

    @property
    def is_remote(self) -> bool:
        """Whether `path` is on the Hugging Face Hub or the address of a service, not a local file or folder."""
        return is_hub_id(self.path) or self.path.startswith(("http://", "https://"))

    @property
    def single_output(self) -> bool:
        """Whether the network has one output for two classes."""
        return self.output in ("logit", "sigmoid")

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of an input that is not square; None for a square one."""
        return self.size if isinstance(self.size, tuple) and self.size[0] != self.size[1] else None

    def preprocessing(self) -> Preprocessing:
        """Preprocessing of square images in [0, 1] with three channels, as large as the larger side of the input."""
        size = self.size if isinstance(self.size, int) else max(self.size)
        mean, std = (
            tuple(value / _SCALE[self.range] for value in (values * 3 if len(values) == 1 else values))
            for values in (self.mean, self.std)
        )
        return Preprocessing(size, mean, std, self.interpolation)  # type: ignore[arg-type]

    def label_names(self, folder: Path) -> tuple[str, ...]:
        """Class names; the numbers of the outputs where none are known.

        Args:
            folder: The zoo's folder.

        Raises:
            ConfigError: If the file of names cannot be read, or there are no labels at all.
        """
        if isinstance(self.labels, str):
            return read_labels(folder / self.labels)
        if self.labels is None:
            raise ConfigError("labels: expected a list of class names, a file of them, or their number, found none")
        if isinstance(self.labels, int):
            if not 1 <= self.labels <= 1_000_000:
                raise ConfigError(f"labels: expected 1 to 1000000 classes, found {self.labels}")
            return tuple(map(str, range(self.labels)))
        return self.labels


class Manifest(FrozenSettings):
    """The content of `zoo.yaml`."""

    format_version: Literal[1] = 1
    """Version of the format of the file."""

    members: tuple[ManifestMember, ...] = ()
    """The members, in any order; their names are distinct."""

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Manifest:
        names = Counter(member.member_name for member in self.members)
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            shown = ", ".join(twice[:5]) + (", ..." if len(twice) > 5 else "")
            raise ValueError(f"several members have the same name ({shown}): give them a `name` each")
        return self

    @cached_property
    def _by_name(self) -> dict[str, ManifestMember]:
        return {member.member_name: member for member in self.members}

    def find(self, name: str) -> ManifestMember | None:
        """The member of a name; None if there is none."""
        return self._by_name.get(name)

    def with_member(self, member: ManifestMember) -> Manifest:
        """A copy with a further entry; it replaces an entry for the same member name.

        Raises:
            ConfigError: If an entry has a wrong value.
        """
        others = [each for each in self.members if each.member_name != member.member_name]
        return build_config(Manifest, {"members": [*others, member]})


def read_manifest(folder: Path) -> Manifest | None:
    """Read a zoo's manifest.

    Args:
        folder: The zoo's folder.

    Returns:
        The manifest; None if the folder has none.

    Raises:
        ZooError: If it cannot be read, is larger than 64 MiB, is not YAML, uses YAML aliases, or has an unknown or
            wrong value.
    """
    path = folder / MANIFEST
    try:
        information = path.stat()
    except OSError:
        return None
    return _read(path, information.st_mtime_ns, information.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, modified: int, size: int) -> Manifest:
    """The manifest, kept while the file stays the same: every member of a zoo of 1,000 asks for it."""
    try:
        if size > _MAX_BYTES:
            raise ValueError(f"at most {_MAX_BYTES} bytes are read, it has {size}")
        with open_regular_file(path) as file:
            text = file.read(_MAX_BYTES).decode("utf-8")
        _check_events(yaml.parse(text, Loader=_Loader))
        content = yaml.load(text, Loader=_Loader) or {}
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not a mapping with `members`")
        return build_config(Manifest, content)
    except (OSError, ValueError, yaml.YAMLError, RecursionError, DfmlError) as error:
        reason = " ".join(str(error).split())
        raise ZooError(f"{path}: expected the manifest of a zoo, but {reason}; correct it") from error


def _check_events(events: Iterable[yaml.Event]) -> None:
    """Check what a text would become, before anything of it is kept.

    Raises:
        ValueError: If it has aliases, or too many or too deeply nested values.
    """
    keys: list[int] = []  # of each mapping or list that is open, the values so far
    for count, event in enumerate(events):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it uses aliases (*name), which can stand for any amount of data; write the values out")
        if count > _MAX_EVENTS:
            raise ValueError(f"it has more than {_MAX_EVENTS} values; name files of labels instead of listing them")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and keys and keys[-1] >= 0:
            keys[-1] += 1
            if keys[-1] > 2 * _MAX_KEYS:
                raise ValueError(f"a mapping in it has more than {_MAX_KEYS} keys")
        if isinstance(event, yaml.CollectionStartEvent):
            keys.append(0 if isinstance(event, yaml.MappingStartEvent) else -1)
            if len(keys) > _MAX_NESTING:
                raise ValueError(f"its values are nested more than {_MAX_NESTING} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            keys.pop()


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write a zoo's manifest atomically; values that are defaults are left out.

    Args:
        folder: The zoo's folder; created if it is missing.
        manifest: The members.

    Returns:
        The file.

    Raises:
        OSError: If it cannot be written.
    """
    members = [member.model_dump(mode="json", exclude_defaults=True) for member in manifest.members]
    text = yaml.dump(
        {"format_version": manifest.format_version, "members": members},
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=120,
    )
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / MANIFEST, text)
    return folder / MANIFEST


def entry_path(folder: Path, member: ManifestMember) -> Path:
    """Path by which a member of a manifest is known: `ZOO/zoo.yaml#NAME`; there is no file of that name."""
    return folder / f"{MANIFEST}{_SEPARATOR}{member.member_name}"


def find_entry(path: Path) -> ManifestMember | None:
    """The entry that a path of the form `ZOO/zoo.yaml#NAME` stands for; None for any other path.

    Raises:
        ZooError: If the manifest cannot be read, or has no such member.
    """
    file, separator, name = path.name.partition(_SEPARATOR)
    if file != MANIFEST or not separator:
        return None
    manifest = read_manifest(path.parent)
    found = manifest.find(name) if manifest else None
    if found is None:
        raise ZooError(f"{path.parent / MANIFEST} has no member {name!r}; check the name")
    return found


def named_files(folder: Path, members: Sequence[ManifestMember]) -> list[Path]:
    """Local model files and folders that entries name (`path`); not those of labels and networks."""
    return [member.location(folder) for member in members if not member.is_remote]
