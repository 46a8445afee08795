"""Who computes the network, and how exactly: PyTorch or OpenVINO, in float32 or with a trunk in bfloat16.

In: a model and an `Arithmetic`. Out: a function from tiles to raw densities and logits. Within one arithmetic a tile
gives the same bits wherever it is cut: its shape never changes, and a process computes on one thread.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError, Refused
from subpixmap.machine import instruction_set

if TYPE_CHECKING:
    from subpixmap.model.checkpoint import Model

Backend = Literal["torch", "openvino"]
Precision = Literal["float32", "bfloat16"]
BACKENDS: tuple[Backend, ...] = ("torch", "openvino")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

TILE = (64, 128)
"""Useful (rows, columns) of a tile in PyTorch on a CPU: the fastest per useful pixel at width 128 that divides a chunk
of 256; its planes stay in the cache (1.6x faster than tiles of 256)."""
_OPENVINO_TILES = {"AMX": (256, 256), "AVX512": (64, 128), "AVX2": (256, 256)}
"""The same for OpenVINO, by the processor's instructions: it keeps less in memory, and larger tiles share more of the
halo. Measured, see docs/benchmarks.md; a table, so that no timing decides what a map is made with."""

BFLOAT16_ERROR = "totals differ from those of float32 by up to 1 %, single km2 by more (docs/benchmarks.md)"

Tiles = NDArray[np.float32]
Network = Callable[[Tiles], NDArray[np.float32]]
"""(tile, band, y + 2 halo, x + 2 halo) -> (tile, prediction, 2, object, y, x): densities, and logits of presence. The
first prediction is that of the whole model; those of its networks follow where they are kept apart."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What computes the network of a run; part of the recipe."""

    backend: Backend = "torch"
    precision: Precision = "float32"
    """bfloat16 is of the blocks alone: the stem, which normalises the input, and the heads stay float32."""
    device: str = "cpu"
    tile: tuple[int, int] = TILE
    """Useful (rows, columns)."""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS or self.precision not in PRECISIONS:
            raise InputError(
                f"--backend {self.backend} --precision {self.precision}: choose {' or '.join(BACKENDS)}, and "
                f"{' or '.join(PRECISIONS)}"
            )
        if self.backend == "openvino" and self.device != "cpu":
            raise InputError(f"--backend openvino computes on the processor, not on {self.device}: use --backend torch")

    @classmethod
    def chosen(
        cls, *, backend: Backend | None = None, precision: Precision | None = None, device: str = "cpu"
    ) -> Arithmetic:
        """For a new run: what is asked for; without a backend the fastest installed one, exact unless told otherwise.

        Raises
        ------
        InputError
            The backend is not installed, or this processor has no units for bfloat16.
        """
        backend = backend or ("openvino" if device == "cpu" and _has_openvino() else "torch")
        precision = precision or "float32"
        if backend == "openvino" and not _has_openvino():
            raise InputError("--backend openvino: OpenVINO is not installed; install subpixmap[fast]")
        tile = _OPENVINO_TILES.get(instruction_set(), TILE) if backend == "openvino" else TILE
        return cls(backend=backend, precision=precision, device=device, tile=tile)

    @classmethod
    def of(cls, numerics: Mapping[str, Any]) -> Arithmetic:
        """Of the numerics of a recipe; runs of before the fields are PyTorch in float32."""
        return cls(
            backend=numerics.get("backend", "torch"),
            precision=numerics.get("dtype", "float32"),
            device=numerics.get("device", "cpu"),
            tile=tuple(numerics.get("tile", TILE)),
        )

    def __str__(self) -> str:
        where = "the processor" if self.device == "cpu" else "GPUs"
        text = f"{'OpenVINO' if self.backend == 'openvino' else 'PyTorch'} in {self.precision} on {where}"
        return text + (f"; {BFLOAT16_ERROR}" if self.precision == "bfloat16" else "")

    def numerics(self) -> dict[str, Any]:
        """The fields of a recipe that it decides."""
        import torch

        stated: dict[str, Any] = {
            "device": self.device,
            "torch": torch.__version__,
            "threads": 1,
            "tile": list(self.tile),
            "batch": 1,
            "dtype": self.precision,
            "memory_format": "channels_last",
        }
        if self.backend == "openvino":
            del stated["memory_format"]  # its own affair
            stated |= {"backend": "openvino", "openvino": _openvino_version()}
        return stated


USUAL = Arithmetic()
"""PyTorch in float32 on the processor: exact, and everywhere."""


def require_here(numerics: Mapping[str, Any]) -> None:
    """Refuse to compute a run on a machine that lacks its backend, or has another version of it."""
    if numerics.get("backend") != "openvino":
        return
    wanted = numerics.get("openvino")
    if not _has_openvino():
        raise Refused(
            f"the run was planned with OpenVINO {wanted}, which this machine does not have: install subpixmap[fast], "
            "or use another --out with --backend torch"
        )
    if (here := _openvino_version()) != wanted:
        raise Refused(
            f"the run was planned with OpenVINO {wanted}, and this machine has {here}: install openvino=={wanted}, or "
            "use another --out"
        )


def network(model: Model, arithmetic: Arithmetic, *, members: bool = False) -> Network:
    """The network of a model in an arithmetic, for one thread at a time; with what its networks say each, if asked."""
    if arithmetic.backend == "openvino":
        from subpixmap.model.openvino_graph import compiled

        return compiled(model, arithmetic.precision, arithmetic.tile, members=members)
    return _torch_network(model, arithmetic, members)


def _torch_network(model: Model, arithmetic: Arithmetic, members: bool) -> Network:
    import torch

    name = ("folded" if arithmetic.precision == "float32" else "rounded") + ("_with_members" if members else "")
    net = getattr(model, name).to(arithmetic.device)

    def run(tiles: Tiles) -> NDArray[np.float32]:
        out: NDArray[np.float32] = net(torch.from_numpy(tiles).to(arithmetic.device)).cpu().numpy()
        return out if members else out[:, None]

    return run


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _openvino_version() -> str:
    return version("openvino")
