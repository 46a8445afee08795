"""The task of one block and period: from items to arrays in the map and a record in the ledger.

A task is independent of other tasks and writes whole shards. It can be repeated at any time, on any worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subpixmap.files import path_of
from subpixmap.grid import CELL, CHUNK, Window, owned
from subpixmap.machine import cores, in_order, peak_rss, thread_pool, timed, usual_workers
from subpixmap.mapping.ledger import Record, Used, array_sha256, cell_sums, write_record
from subpixmap.mapping.owner import require_held
from subpixmap.mapping.quantise import as_stored
from subpixmap.mapping.recipe import Recipe
from subpixmap.mapping.store import write_block
from subpixmap.mapping.zones import BlockPlan
from subpixmap.model.backends import Pixels, require_here, sent
from subpixmap.model.clouds import read_valid
from subpixmap.model.mean import Accumulator, fits_in_order
from subpixmap.scenes.choice import choose
from subpixmap.scenes.clouds import MaskRule
from subpixmap.scenes.cube import read_reflectance
from subpixmap.scenes.items import Item, by_acquisition

if TYPE_CHECKING:
    from subpixmap.model.checkpoint import Model

Array = NDArray[Any]


@dataclass(frozen=True)
class Task:
    """One block and period with everything that a worker needs."""

    out: str
    """The run's folder, absolute: workers may have another working directory."""
    plan: BlockPlan
    period: str
    recipe: Recipe
    run_id: str
    items: tuple[Item, ...]
    """Locked items of the period that touch the block and its halo."""
    items_sha256: str
    """Of all locked items of the period."""
    halo: int
    """Pixels."""
    token: str = ""
    """Of the owner of the folder; empty where nobody has to hold it."""

    @property
    def readers(self) -> int:
        """Number of reading threads on the machine of the task."""
        return readers_for(self.recipe.arithmetic.device)

    @property
    def key(self) -> tuple[str, str]:
        """(block id, period label)."""
        return self.plan.block.id, self.period

    @property
    def label(self) -> str:
        """For messages."""
        return f"block {self.plan.block.id}, period {self.period}"


@dataclass(frozen=True)
class Outcome:
    """The result of a task for the driver."""

    record: Record
    seconds: dict[str, float]
    """Of this task, by stage: read (in the readers' threads), wait (for the readers), network, write. On a GPU these
    overlap."""
    peak_rss: int
    """Of the worker's process since it started, bytes."""


def map_block(task: Task, model: Model) -> Outcome:
    """Map one block in one period.

    1. Choose the clearest acquisitions, spread over months and orbits.
    2. Predict each of them, and add it to the mean.
    3. Turn the mean into the arrays of the map.
    4. Store the arrays, then commit the record.

    Parameters
    ----------
    task
        The block, its items and the recipe.
    model
        The model of the recipe.

    Returns
    -------
    Outcome
        With the record that was committed.
    """
    require_here(task.recipe.numerics)
    seconds = dict.fromkeys(("read", "wait", "network", "write"), 0.0)
    window = task.plan.window
    # 1. Choose by scene classes only: they are a small part of the bytes, and most acquisitions are cloudy.
    wanted = _wanted(task.plan)
    computed = wanted & task.plan.pixels()
    chosen = _choose(task, wanted, computed, seconds)
    # 2. The network runs while the next acquisition is read. Running sums keep memory independent of their number.
    mean = Accumulator(len(task.recipe.objects), window.shape, members=task.recipe.spread)
    used, cells, predicted_px = [], [], 0
    for one in _predict_ahead(task, model, chosen, seconds):
        began = time.perf_counter()
        totals, seen = _add(task, model, one, mean)
        predicted_px += one.n_predicted
        used.append(one.acquired.used(seen))
        cells.append((totals, seen))
        del one
        seconds["network"] += time.perf_counter() - began
    # 3. Encode and decode the values, since the record hashes what readers of the map see.
    began = time.perf_counter()
    fits = fits_in_order(model.card.trimmed, task.recipe.objects)
    whole = _whole_block(task, mean.result(min_obs=task.recipe.min_obs, trimmed_fits=fits))
    arrays = as_stored(whole, side=CELL if task.recipe.mapped_by == "cell" else CHUNK)
    # 4. The record is the commit, so it comes last: a task that dies before it is simply done again. A run that lost
    #    the folder to another one writes neither.
    out = path_of(task.out)
    require_held(out, task.token)
    shards = write_block(out, task.plan.block, task.period, arrays)
    record = _record(task, arrays, shards, mean, used, cells, int(computed.sum()), predicted_px)
    require_held(out, task.token)
    write_record(out, record)
    seconds["write"] += time.perf_counter() - began
    return Outcome(record, seconds, peak_rss())


@dataclass(frozen=True)
class Chosen:
    """An acquisition over a block, with its clear pixels."""

    name: str
    items: tuple[Item, ...]
    """Its tiles that touch the block."""
    valid: NDArray[np.uint8]
    """Clear pixels of the block's window that are computed, packed bits."""

    @property
    def time(self) -> str:
        """First sensing time of its tiles, ISO 8601, UTC."""
        return min(item.datetime for item in self.items)


def _wanted(plan: BlockPlan) -> NDArray[np.bool_]:
    """Pixels of the block's window that affect the choice: in a chunk of the plan and owned by the zone."""
    window = plan.window
    mask = np.zeros(window.shape, bool)
    for chunk in plan.chunks:
        mask[chunk.slices(window)] = True
    return mask & owned(plan.block.lattice, window)


def _choose(
    task: Task, wanted: NDArray[np.bool_], computed: NDArray[np.bool_], seconds: dict[str, float]
) -> list[Chosen]:
    """The acquisitions to predict, in order of time.

    They are the clearest of all wanted pixels, of which some are computed: a choice that followed the outline of the
    region more closely would differ from that of older run folders.

    1. Measure the clear share of every acquisition by its scene classification, which is cheap to read.
    2. Choose. Without a cloud network this is all.
    3. A cloud network reads the bands, so run it only on chosen acquisitions. If it finds clouds, others replace them:
    repeat until it has seen all chosen ones.
    """
    groups = by_acquisition(task.items)
    clear: dict[str, float] = {}
    packed = {}
    n_wanted = max(int(wanted.sum()), 1)
    where = task.plan.block.lattice, task.plan.window
    read = partial(read_valid, bands=task.recipe.bands, missing=task.recipe.missing)

    def look(names: Sequence[str], rule: MaskRule) -> None:
        calls = [partial(read, groups[name], *where, rule) for name in names]
        for name, unmasked in zip(names, in_order(calls, task.readers, seconds, "read"), strict=True):
            valid = unmasked & wanted
            clear[name] = float(valid.sum() / n_wanted)
            if clear[name]:
                # An eighth of the memory: there may be a hundred acquisitions.
                packed[name] = np.packbits(valid & computed)

    rule = task.recipe.mask
    look(list(groups), replace(rule, by="scl"))
    chosen = choose(groups, clear, task.recipe.max_scenes)
    seen = set(groups) if rule.by == "scl" else set[str]()
    while new := [name for name in chosen if name not in seen]:
        look(new, rule)
        seen |= set(new)
        chosen = choose(groups, clear, task.recipe.max_scenes)
    return [Chosen(name, tuple(groups[name]), packed[name]) for name in chosen]


@dataclass(frozen=True)
class Acquired:
    """An acquisition over a block with its pixels."""

    chosen: Chosen
    reflectance: NDArray[np.float32]
    """(band, y, x) of the block's window."""
    sha256: str
    """Of the reflectance with its halo."""
    observed: NDArray[np.bool_]
    """(y, x) of the window: clear pixels with data in all bands. Pixels around them may be cloudy: the network sees
    these, too."""

    def used(self, seen: Array) -> Used:
        """For the ledger, from its observed pixels in each cell."""
        return Used(self.chosen.name, self.chosen.time, int(seen.sum()), self.sha256)


@dataclass(frozen=True)
class Predicted:
    """An acquisition over a block with what the network says of it."""

    acquired: Acquired
    outputs: tuple[Array, ...]
    """Count and presence (object, y, x) of all objects of the model, then the counts of its networks, if kept."""
    n_predicted: int
    """Pixels that went through the network."""


def _predict_ahead(
    task: Task, model: Model, chosen: Sequence[Chosen], seconds: dict[str, float]
) -> Iterator[Predicted]:
    """Yield each acquisition with its prediction; read the next ones meanwhile.

    With a GPU, readers start to copy windows there, and the next acquisition is predicted while this one is used.
    """

    def calls() -> Iterator[Callable[[], Predicted]]:
        reads = [partial(_acquire, task, one) for one in chosen]
        for acquired, pixels in in_order(reads, task.readers, seconds, "read"):
            yield partial(_predict, task, model, acquired, pixels)
            del acquired, pixels  # free them before waiting for the next ones

    if task.recipe.arithmetic.device != "cpu":
        yield from in_order(calls(), 1, seconds, "network")  # one, because a network is of one thread at a time
        return
    for call in calls():
        predicted, spent = timed(call)
        seconds["network"] += spent
        del call
        yield predicted
        del predicted


def _acquire(task: Task, chosen: Chosen) -> tuple[Acquired, Pixels]:
    """Read the pixels, and pack them if they go to a GPU."""
    window, halo = task.plan.window, task.halo
    where = task.plan.block.lattice, window.padded(halo)
    reflectance = read_reflectance(chosen.items, *where, task.recipe.bands, missing=task.recipe.missing)
    valid = np.unpackbits(chosen.valid, count=window.height * window.width).astype(bool).reshape(window.shape)
    inner = reflectance[:, halo : halo + window.height, halo : halo + window.width]
    observed = valid & np.isfinite(inner).all(axis=0)
    acquired = Acquired(chosen, inner, array_sha256(reflectance), observed)
    return acquired, sent(reflectance, task.recipe.arithmetic)


def _predict(task: Task, model: Model, acquired: Acquired, pixels: Pixels) -> Predicted:
    """Run the network over the window, except under clouds."""
    from subpixmap.model.predict import n_predicted, predict_block, predict_members

    arithmetic, observed = task.recipe.arithmetic, acquired.observed
    predict = predict_members if task.recipe.spread else predict_block
    count, presence, *members = predict(model, pixels, arithmetic=arithmetic, wanted=observed)
    outputs = (count, presence, *(members[0] if members else ()))
    return Predicted(acquired, outputs, n_predicted(observed, arithmetic=arithmetic))


def _add(task: Task, model: Model, one: Predicted, mean: Accumulator) -> tuple[Array, Array]:
    """Add the observed pixels of an acquisition to the mean, chunk by chunk.

    Returns totals and observed pixels of cells of 128 px. The ledger keeps these sums of a single acquisition: they
    show how much the mean depends on the dates.
    """
    from subpixmap.model.domain import out_of_domain

    block, window = task.plan.block, task.plan.window
    pick = [tuple(model.card.objects).index(name) for name in task.recipe.objects]
    side = block.size // CELL
    totals, seen = np.zeros((len(pick), side, side)), np.zeros((side, side), np.int32)

    def add(chunk: Window) -> None:
        at = chunk.slices(window)
        if not (seen_here := one.acquired.observed[at]).any():
            return
        count, presence, *by_member = (values[:, *at][pick] for values in one.outputs)
        unlike = out_of_domain(model, one.acquired.reflectance[:, *at], seen_here)
        mean.add(at, count, presence, seen_here, unlike, by_member=by_member)
        rows, cols = chunk.slices(block.window)
        cells = slice(rows.start // CELL, rows.stop // CELL), slice(cols.start // CELL, cols.stop // CELL)
        totals[:, *cells] = cell_sums(np.where(seen_here, count, 0).astype(np.float64))
        seen[cells] = cell_sums(seen_here)

    _for_each(task.plan.chunks, add, threads=task.readers)
    return totals, seen


def _for_each(chunks: Iterable[Window], add: Callable[[Window], None], *, threads: int) -> None:
    """Call a function for every chunk; in several threads with a GPU, since chunks are independent."""
    if threads == 1:
        for chunk in chunks:
            add(chunk)
        return
    with thread_pool(threads) as pool:
        for _ in pool.map(add, chunks):
            pass


def _whole_block(task: Task, results: dict[str, Array]) -> dict[str, Array]:
    """The window's results in arrays of the whole block; NaN and 0 outside."""
    block = task.plan.block
    at = task.plan.window.slices(block.window)
    arrays = {}
    for name, values in results.items():
        empty = 0 if values.dtype.kind == "u" else np.nan
        arrays[name] = np.full((*values.shape[:-2], *block.window.shape), empty, values.dtype)
        arrays[name][..., *at] = values
    return arrays


def _record(
    task: Task,
    arrays: dict[str, Array],
    shards: dict[str, str],
    mean: Accumulator,
    used: Sequence[Used],
    cells: Sequence[tuple[Array, Array]],
    computed_px: int,
    predicted_px: int,
) -> Record:
    import torch

    block = task.plan.block
    counted = np.asarray(np.isfinite(arrays["count"]).all(axis=0))
    unlike = np.zeros(block.window.shape)
    unlike[task.plan.window.slices(block.window)] = mean.out_of_domain_share()
    side, n = block.size // CELL, len(task.recipe.objects)
    totals = np.array([t for t, _ in cells]).reshape(len(cells), n, side, side)
    return Record(
        block_id=block.id,
        period=task.period,
        run_id=task.run_id,
        items_sha256=task.items_sha256,
        sha256={name: array_sha256(values) for name, values in arrays.items()},
        acquisitions=tuple(used),
        computed_px=computed_px,
        predicted_px=predicted_px,
        observed_px=int(counted.sum()),
        total={
            name: float(values[counted].sum(dtype=np.float64))
            for name, values in zip(task.recipe.objects, arrays["count"], strict=True)
        },
        cells={
            "observed_px": cell_sums(counted).astype(np.int32),
            "out_of_domain_px": cell_sums(np.where(counted, unlike, 0)).astype(np.float32),
            "acquisition_observed_px": np.array([s for _, s in cells], np.int32).reshape(len(cells), side, side),
            "acquisition_total": totals.astype(np.float32),
        },
        numerics=dict(task.recipe.numerics) | {"cpu": torch.backends.cpu.get_cpu_capability()},
        shard_sha256=shards,
    )


def readers_for(device: str) -> int:
    """Number of reading threads of a worker: one for a CPU core, a share of the cores for a GPU."""
    if device == "cpu":
        return 1
    return max(1, min(16, cores() // usual_workers(device) - 1))
