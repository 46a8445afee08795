"""A network as an OpenVINO graph, compiled for one shape of tile.

In: a folded network. Out: a function from tiles to densities and logits. The graph is written node by node, so that it
is known which nodes stay in float32 where the others are in bfloat16.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from subpixmap.errors import Refused
from subpixmap.model.net import Averaged, DensityNet, views

if TYPE_CHECKING:
    from subpixmap.model.checkpoint import Model

Tiles = NDArray[np.float32]
_EXACT = "float32/"
"""Begins the names of nodes that stay float32: all of the stem and the heads."""
_SETTINGS = {
    "INFERENCE_NUM_THREADS": 1,  # parallelism comes from processes
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,  # several processes would be pinned to the same core
}
_HINTS = {"float32": "f32", "bfloat16": "bf16"}  # float32 must be said: by default AMX computes in bfloat16
_LAST = np.iinfo(np.int64).min
_COMPILED: dict[tuple[str, str, tuple[int, int]], Any] = {}
"""Of this process, by hash of the model, precision and tile."""


def compiled(model: Model, precision: str, tile: tuple[int, int], *, members: bool = False) -> Callable[[Tiles], Tiles]:
    """The network of a model for tiles of this useful size, one after the other on one thread; see `backends.Network`.

    Raises
    ------
    Refused
        This processor, or this version of OpenVINO, cannot compute as the precision says.
    """
    key = model.sha256, precision, tile
    if key not in _COMPILED:
        shape = (1, len(model.card.bands), tile[0] + 2 * model.halo, tile[1] + 2 * model.halo)
        graph = _graph(model.folded, shape)
        _COMPILED[key] = _compile(graph if precision == "float32" else _marked(graph), precision)
    request = _COMPILED[key].create_infer_request()  # its buffers serve one thread at a time
    source = request.get_input_tensor().data
    apart = model.card.members_apart() if members else 1
    parts = (1, 2, len(model.card.objects), *tile)
    first = next(one for one in model.folded.modules() if isinstance(one, DensityNet))  # all have the card's
    mean, scale = first.mean[0].numpy(), first.scale[0].numpy()
    n_outputs = len(_COMPILED[key].outputs)

    def run(tiles: Tiles) -> Tiles:
        out = []
        for one in tiles:
            np.multiply(one - mean, scale, out=source[0])  # here: in the graph it may be rounded with the blocks
            np.nan_to_num(source[0], copy=False, nan=0.0, posinf=0.0, neginf=0.0)
            request.infer()
            each = [request.get_output_tensor(k).data.reshape(parts) for k in range(n_outputs)]
            out.append(_averaged(np.concatenate(each), apart))
        return np.stack(out)

    return run


@lru_cache(maxsize=1)
def _core() -> Any:
    import openvino

    return openvino.Core()


def _compile(graph: Any, precision: str) -> Any:
    core = _core()
    if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise Refused("--precision bfloat16: this processor does not support it; use float32, or another machine")
    made = core.compile_model(graph, "CPU", _SETTINGS | {"INFERENCE_PRECISION_HINT": _HINTS[precision]})
    if precision == "bfloat16":
        _require_float32_ends(made)
    return made


def _require_float32_ends(made: Any) -> None:
    """Refuse a version of OpenVINO that rounds the stem or the heads, or no block: its error is not the stated one."""
    facts = [node.get_rt_info() for node in made.get_runtime_model().get_ordered_ops()]
    exact = {one["runtimePrecision"].value for one in facts if _EXACT in one["originalLayersNames"].value}
    others = {one["runtimePrecision"].value for one in facts if one["layerType"].value == "Convolution"}
    if "f32" not in exact or "bf16" in exact or "bf16" not in others:
        raise Refused(
            "--precision bfloat16: this version of OpenVINO cannot keep the first and last convolution in float32; "
            "use --precision float32, or --backend torch"
        )


def _marked(graph: Any) -> Any:
    """The graph with its exact nodes marked: the mark is an attribute of OpenVINO's files, so it goes through one."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.xml"
        openvino.save_model(graph, path, compress_to_fp16=False)
        weights = np.fromfile(path.with_suffix(".bin"), np.uint8)
        mark = '<rt_info><attribute name="precise" version="0"/></rt_info>'
        text = re.sub(rf'<layer id="\d+" name="{_EXACT}[^>]*>', lambda found: found[0] + mark, path.read_text())
    return _core().read_model(text.encode(), openvino.Tensor(weights))


def _graph(net: DensityNet | Averaged, shape: tuple[int, ...]) -> Any:
    """Of (n, band, y, x): (n, 2 * object, y, x) of each network in each view."""
    import openvino
    from openvino import opset13 as op

    tiles = op.parameter(shape, np.float32)
    if isinstance(net, DensityNet):
        return openvino.Model([_density_net(net, tiles)], [tiles])
    outputs = [
        _turned_back(_density_net(member, _turned(tiles, turn, mirror)), turn, mirror)  # type: ignore[arg-type]
        for turn, mirror in views(net.turns)
        for member in net.members
    ]
    return openvino.Model(outputs, [tiles])  # to join or add them here would round them


def _averaged(outputs: Tiles, members: int) -> Tiles:
    """(output, 2, object, y, x), view by view and in each view network by network: the mean, then each network's."""
    each = [outputs[k::members].mean(axis=0) for k in range(members)] if members > 1 else []
    return np.stack([outputs.mean(axis=0), *each])


def _density_net(net: DensityNet, tiles: Any) -> Any:
    """As `DensityNet.forward` of normalised input, after folding; (n, 2 * object, y, x)."""
    from openvino import opset13 as op

    x = _exact(op.relu(_convolved(tiles, net.stem, exact=True)))
    for block in net.blocks:
        y = op.relu(_convolved(x, block.conv1))
        y = op.relu(_convolved(y, block.conv2))
        y = _convolved(y, block.conv3)
        skip = _sliced(x, {2: (1, -1, 1), 3: (1, -1, 1)})
        if isinstance(block.conv_skip, nn.Conv2d):
            skip = _convolved(skip, block.conv_skip)
        x = op.relu(op.add(y, skip))
    return _convolved(x, net.heads, exact=True)


def _convolved(x: Any, layer: Any, *, exact: bool = False) -> Any:
    from openvino import opset13 as op

    named = _exact if exact else (lambda node: node)
    y = named(op.convolution(x, _constant(layer.weight), [1, 1], [0, 0], [0, 0], [1, 1]))
    return named(op.add(y, _constant(layer.bias.reshape(1, -1, 1, 1))))


def _constant(values: Any) -> Any:
    from openvino import opset13 as op

    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
    return op.constant(np.ascontiguousarray(array, np.float32) if np.ndim(array) else array)


def _exact(node: Any) -> Any:
    node.set_friendly_name(_EXACT + node.get_friendly_name())
    return node


def _turned(x: Any, turn: int, mirror: bool) -> Any:
    """As `net.turned`."""
    x = _quarter_turns(x, turn % 4)
    return _mirrored(x) if mirror else x


def _turned_back(x: Any, turn: int, mirror: bool) -> Any:
    """As `net.turned_back`."""
    return _quarter_turns(_mirrored(x) if mirror else x, -turn % 4)


def _mirrored(x: Any) -> Any:
    return _exact(_sliced(x, {3: (-1, _LAST, -1)}))


def _quarter_turns(x: Any, turns: int) -> Any:
    """(n, band, y, x) by quarter turns, as `torch.rot90` over y and x."""
    from openvino import opset13 as op

    backwards = (-1, _LAST, -1)
    if turns == 2:
        return _exact(_sliced(x, {2: backwards, 3: backwards}))
    if turns:
        x = _exact(op.transpose(x, op.constant(np.array([0, 1, 3, 2]))))
        return _exact(_sliced(x, {2 if turns == 1 else 3: backwards}))
    return x


def _sliced(x: Any, cuts: dict[int, tuple[int, int, int]]) -> Any:
    """Axis -> start, stop and step."""
    from openvino import opset13 as op

    starts, stops, steps = (op.constant(np.array(values, np.int64)) for values in zip(*cuts.values(), strict=True))
    return op.slice(x, starts, stops, steps, op.constant(np.array(list(cuts), np.int64)))
