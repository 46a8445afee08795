"""Backend and precision of the network: PyTorch or OpenVINO, float32 or blocks in bfloat16.

In: a model and an `Arithmetic`. Out: a function from tiles to raw densities and logits. Within one arithmetic a tile
gives the same bits wherever it is cut: its shape never changes, and a process computes on one thread.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from subpixmap.errors import InputError, Refused
from subpixmap.machine import instruction_set

if TYPE_CHECKING:
    from subpixmap.model.checkpoint import Model
    from subpixmap.model.device import DeviceWindow

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

GPU_TILE = (256, 256)
"""The same on a GPU, which takes many at once."""

_Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(1, band, y, x) -> (1, prediction, 2, object, y, x) of one tile."""
Place = tuple[int, int, int, int]
"""First row and column, height and width of a tile of a window."""
Pixels: TypeAlias = "NDArray[np.float32] | DeviceWindow"
"""Reflectance of a window: in memory, or on its way to a GPU."""
Network = Callable[[Pixels, Sequence[Place]], Iterator[NDArray[np.float32]]]
"""Of a window (band, y + 2 halo, x + 2 halo) and places in it, for each place (prediction, 2, object, y, x) of a whole
tile: densities, and logits of presence. The first prediction is that of the whole model; those of its networks follow
where they are kept apart."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Device, backend and precision of a run; part of the recipe."""

    backend: Backend = "torch"
    precision: Precision = "float32"
    """bfloat16 is of the blocks alone: the stem, which normalises the input, and the heads stay float32."""
    device: str = "cpu"
    tile: tuple[int, int] = TILE
    """Useful (rows, columns)."""
    tf32: bool = False
    """Whether a GPU rounds the operands of float32 convolutions to 10 bits, as runs of earlier versions let it."""

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS or self.precision not in PRECISIONS:
            raise InputError(
                f"--backend {self.backend} --precision {self.precision}: choose {' or '.join(BACKENDS)}, and "
                f"{' or '.join(PRECISIONS)}"
            )
        if self.backend == "openvino" and self.device != "cpu":
            raise InputError(
                f"--backend openvino runs on the processor only, not on {self.device}: use --backend torch"
            )

    @classmethod
    def chosen(
        cls, *, backend: Backend | None = None, precision: Precision | None = None, device: str = "cpu"
    ) -> Arithmetic:
        """The arithmetic of a new run: as requested; by default the fastest installed backend in float32.

        Raises
        ------
        InputError
            The backend is not installed, or this processor has no units for bfloat16.
        """
        backend = backend or ("openvino" if device == "cpu" and _has_openvino() else "torch")
        precision = precision or "float32"
        if backend == "openvino" and not _has_openvino():
            raise InputError("--backend openvino needs OpenVINO: install subpixmap[fast]")
        tile = _OPENVINO_TILES.get(instruction_set(), TILE) if backend == "openvino" else TILE
        tile = tile if device == "cpu" else GPU_TILE
        return cls(backend=backend, precision=precision, device=device, tile=tile)

    @classmethod
    def of(cls, numerics: Mapping[str, Any]) -> Arithmetic:
        """Of the numerics of a recipe; runs older than the fields are PyTorch in float32."""
        device = numerics.get("device", "cpu")
        return cls(
            backend=numerics.get("backend", "torch"),
            precision=numerics.get("dtype", "float32"),
            device=device,
            tile=tuple(numerics.get("tile", TILE)),
            tf32=numerics.get("tf32", device != "cpu"),
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
        if self.device != "cpu" and not self.tf32:
            stated |= {"batch": "any", "tf32": False}  # how many tiles at once depends on the free memory
        if self.backend == "openvino":
            del stated["memory_format"]  # OpenVINO chooses its own
            stated |= {"backend": "openvino", "openvino": _openvino_version()}
        return stated


USUAL = Arithmetic()
"""PyTorch in float32 on the processor: exact, and everywhere."""


def require_here(numerics: Mapping[str, Any]) -> None:
    """Refuse a machine without the run's backend or with another version of it."""
    if numerics.get("backend") != "openvino":
        return
    wanted = numerics.get("openvino")
    if not _has_openvino():
        raise Refused(
            f"the run was planned with OpenVINO {wanted}, which is not installed here: install subpixmap[fast], "
            "or use another --out with --backend torch"
        )
    if (here := _openvino_version()) != wanted:
        raise Refused(
            f"the run was planned with OpenVINO {wanted}, but this machine has {here}: install openvino=={wanted}, or "
            "use another --out"
        )


def network(model: Model, arithmetic: Arithmetic, *, members: bool = False) -> Network:
    """The network of a model in an arithmetic, for one thread at a time; with what its networks say each, if asked."""
    if arithmetic.device != "cpu":
        return _gpu_network(model, arithmetic, members)
    run = (
        _openvino(model, arithmetic, members)
        if arithmetic.backend == "openvino"
        else _torch(model, arithmetic, members)
    )

    def one_by_one(window: Pixels, places: Sequence[Place]) -> Iterator[NDArray[np.float32]]:
        assert isinstance(window, np.ndarray)
        halo = model.halo
        tile = np.empty((1, window.shape[0], *(side + 2 * halo for side in arithmetic.tile)), np.float32)
        for r, c, h, w in places:
            part = window[:, r : r + h + 2 * halo, c : c + w + 2 * halo]
            tile.fill(np.nan)
            tile[0, :, : part.shape[1], : part.shape[2]] = part
            yield run(tile)[0]

    return one_by_one


def sent(reflectance: NDArray[np.float32], arithmetic: Arithmetic) -> Pixels:
    """A window for the network: for a GPU it is packed, and its copy starts now, if there is room for it.

    So it is there when the window before it is done.
    """
    if arithmetic.device == "cpu":
        return reflectance
    from subpixmap.model.device import DeviceWindow

    window = DeviceWindow(reflectance, arithmetic.device)
    window.copy_early()
    return window


def _openvino(model: Model, arithmetic: Arithmetic, members: bool) -> _Run:
    from subpixmap.model.openvino_graph import compiled

    return compiled(model, arithmetic.precision, arithmetic.tile, members=members)


def _torch(model: Model, arithmetic: Arithmetic, members: bool) -> _Run:
    import torch

    net = _torch_net(model, arithmetic, members)

    def run(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        out: NDArray[np.float32] = net(torch.from_numpy(tiles)).numpy()
        return out if members else out[:, None]

    return run


def _gpu_network(model: Model, arithmetic: Arithmetic, members: bool) -> Network:
    from subpixmap.model.device import batches_for, on_device, outputs

    device, tile = arithmetic.device, arithmetic.tile
    if arithmetic.precision == "bfloat16":
        _require_bfloat16()
    net = on_device(_torch_net(model, arithmetic, members), device)
    batches, halo, tf32 = batches_for(device, tile), model.halo, arithmetic.tf32

    def run(window: Pixels, places: Sequence[Place]) -> Iterator[NDArray[np.float32]]:
        for out in outputs(net, window, places, device=device, tile=tile, halo=halo, batches=batches, tf32=tf32):
            yield out if members else out[None]

    return run


def _require_bfloat16() -> None:
    """Refuse a GPU without units for bfloat16, where cuDNN has no convolution for it."""
    import torch

    if torch.cuda.is_available() and (version := torch.cuda.get_device_capability()) < (8, 0):
        raise Refused(
            f"--precision bfloat16 needs a GPU of compute capability 8.0 or newer, but this one has {version[0]}."
            f"{version[1]}: use another --out with --precision float32"
        )


def _torch_net(model: Model, arithmetic: Arithmetic, members: bool) -> Any:
    name = "folded" if arithmetic.precision == "float32" else "rounded"
    return getattr(model, f"{name}_with_members" if members else name)


def _has_openvino() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _openvino_version() -> str:
    return version("openvino")
