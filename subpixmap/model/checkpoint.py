"""A checkpoint: a network, its card (see `card`), and a hash over both.

Data, never code: nothing in the file is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from subpixmap.errors import InputError
from subpixmap.files import write_atomic
from subpixmap.html import html_table
from subpixmap.model.card import KEY, Card, card_path, read_stored
from subpixmap.model.likeness import Likeness
from subpixmap.model.net import Averaged, DensityNet, WithMembers, fold, measure_halo, rounded
from subpixmap.model.sealed import hash_of
from subpixmap.model.stac_item import write_model_item
from subpixmap.model.travel import local_copy

_BATCH_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True, repr=False)
class Model:
    """A network with its card."""

    net: DensityNet | Averaged
    card: Card
    sha256: str
    """Over card and tensors."""
    halo: int
    """Measured receptive radius, pixels."""

    @classmethod
    def of(cls, net: DensityNet | Averaged, card: Card) -> Model:
        """A model that is not on disk, in evaluation mode."""
        return cls(net.eval(), card, hash_of(card.to_json(), _arrays(tensors_of(net))), measure_halo(net))

    @cached_property
    def folded(self) -> DensityNet | Averaged:
        """The network for inference."""
        return fold(self.net)

    @cached_property
    def rounded(self) -> DensityNet | Averaged:
        """The network for inference with its blocks in bfloat16."""
        return rounded(self.folded)

    @cached_property
    def folded_with_members(self) -> WithMembers:
        """The network for inference, with the outputs of its members."""
        return self._with_members(self.folded)

    @cached_property
    def rounded_with_members(self) -> WithMembers:
        """The same with its blocks in bfloat16."""
        return self._with_members(self.rounded)

    def _with_members(self, net: DensityNet | Averaged) -> WithMembers:
        self.card.members_apart()
        assert isinstance(net, Averaged)
        return WithMembers(net)

    @cached_property
    def likeness(self) -> Likeness | None:
        """What the land of the training looks like, if the card says it."""
        return self.card.land_like_training()

    def __repr__(self) -> str:
        card = self.card
        return (
            f"Model({card.name!r}: counts {', '.join(card.objects)} from {' '.join(card.bands)} at "
            f"{card.resolution:g} m; evidence {card.evidence}, sha256 {self.sha256[:12]})"
        )

    def _repr_html_(self) -> str:
        card = self.card
        size = f"{card.width}/{card.mid}, {card.blocks} blocks, reads {self.halo} px around a pixel"
        facts = {
            "counts": "; ".join(f"{name} ({card.measure[name]}): {text}" for name, text in card.objects.items()),
            "from": f"{' '.join(card.bands)}, {card.resolution:g} m, {card.sensor} {card.level}",
            "evidence": card.evidence,
            "limits": " ".join(card.limits) or "not stated",
            "network": size,
            "sha256": self.sha256,
        }
        return html_table(f"model {card.name}", facts)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("subpixmap.Model", self.sha256)


def save_model(path: str | Path, net: DensityNet | Averaged, card: Card) -> Model:
    """Write FILE.safetensors, FILE.card.json and FILE.stac.json atomically; return the model.

    Raises
    ------
    InputError
        The file name does not end in .safetensors, or card and network differ in shape.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: the name of a checkpoint must end in .safetensors")
    tensors = tensors_of(net)
    want = tensors_of(card.build_net())
    if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in want.items()} or measure_halo(
        net
    ) != card.halo:
        raise InputError(
            f"{path}: card {card.name!r} does not describe this network (bands, objects, width, mid, blocks, halo)"
        )
    text = card.to_json()
    metadata = {KEY: json.dumps({"card": text, "sha256": hash_of(text, _arrays(tensors))})}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(tensors, metadata))
    write_atomic(card_path(path), (json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n").encode())
    write_model_item(read_stored(path))
    return load_model(path)


def load_model(name_or_path: str | Path, *, known: str | None = None) -> Model:
    """Load a shipped checkpoint by name, or any by path or URL, without executing code from it.

    Parameters
    ----------
    name_or_path
        Also `https://...`, `s3://bucket/...` or `hf://org/repo/path@revision`, with or without `#sha256=...` behind it.
    known
        sha256 of the model that is expected at an address (see `travel.local_copy`).

    Raises
    ------
    InputError
        No such model, not safetensors (say a pickle), truncated, changed since it was saved, or not what the card says.
    Incomplete
        The server of an address does not answer.
    Refused
        At the address is another model than the known one.
    """
    stored = read_stored(local_copy(name_or_path, known=known))
    path, card = stored.path, stored.card
    net = card.build_net()
    fill(net, stored.tensors, path)
    if (halo := measure_halo(net)) != card.halo:
        raise InputError(f"{path}: the card says halo {card.halo} px, but the network needs {halo}")
    return Model(net.eval().requires_grad_(False), card, stored.sha256, halo)


def fill(net: torch.nn.Module, arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Give a network the arrays of a file; counters of batches, which are not stored, may be missing.

    Raises
    ------
    InputError
        Names or shapes are not those of the network.
    """
    tensors = {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}
    try:
        missing, unexpected = net.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise InputError(f"{path}: tensors do not fit the card: {str(error).splitlines()[-1].strip()}") from error
    if unexpected or any(not key.endswith(_BATCH_COUNTER) for key in missing):
        raise InputError(f"{path}: tensors do not fit the card: missing {missing}, unexpected {unexpected}")


def tensors_of(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a file stores of a network; `fill` takes it back."""
    return {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items() if not k.endswith(_BATCH_COUNTER)}


def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
