"""Files of weights alone, with an entry in `zoo.yaml` that says what network, classes and preprocessing they have."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from dfml.errors import ConfigError, ZooMemberError
from dfml.zoo.adapters import RowMajor, adapt_network
from dfml.zoo.architectures import build_architecture
from dfml.zoo.checkpoint_files import read_checkpoint
from dfml.zoo.formats import MemberConfig
from dfml.zoo.manifest import MANIFEST, ManifestMember
from dfml.zoo.owner_networks import build_owner_network
from dfml.zoo.state_dicts import align
from dfml.zoo.vetting import load_strictly


class StateDictFormat:
    """Safetensors and pickles of tensors; see `dfml.zoo.checkpoint_files`."""

    name = "state_dict"

    def recognises(self, path: Path) -> bool:
        """False: such files are members by their entry in `zoo.yaml` alone."""
        return False

    def read_config(self, path: Path) -> MemberConfig:
        """Refuse: a file of weights does not describe itself.

        Raises:
            ZooMemberError: Always.
        """
        raise ZooMemberError(path, "a file of weights alone needs an entry in zoo.yaml", "run `dfml zoo add`")

    def load(self, config: MemberConfig) -> nn.Module:
        """Build the architecture of the entry, load the weights into it, and adapt it to colour images and logits.

        Raises:
            ZooMemberError: If the entry is wrong, or the weights are damaged or of another network.
        """
        entry = config.entry
        if entry is None:
            return self.read_config(config.path)  # type: ignore[return-value]
        weights = read_checkpoint(config.weight_file).state_dict
        fix = f"correct `architecture`, `arguments` or `labels` of {config.name} in {MANIFEST}"

        def build(device: str) -> nn.Module:
            try:
                return _build(config, entry, device)
            except ConfigError as error:
                raise ZooMemberError(config.path, str(error), fix) from error

        def read() -> dict[str, Tensor]:
            return align(weights, build("meta").state_dict(), by_order=entry.match == "order")

        network = load_strictly(config, build, read, fix)
        return adapt_network(
            network,
            outputs=entry.output,
            size=entry.input_size,
            channels=entry.channels,
            channels_last=entry.layout == "nhwc",
        )


def _build(config: MemberConfig, entry: ManifestMember, device: str) -> nn.Module:
    outputs = 1 if entry.single_output else len(config.labels)
    if config.network is not None:
        return RowMajor(build_owner_network(config.network, entry.arguments, entry.network_sha256))
    return build_architecture(entry.architecture, outputs, entry.arguments, device=device)


FORMAT = StateDictFormat()
