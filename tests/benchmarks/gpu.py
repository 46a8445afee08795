"""What `workflows/bench_gpu.py` measures, as ratios against what binds a GPU."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from subpixmap.machine import cores
from subpixmap.model.backends import Arithmetic
from tests.benchmarks.figures import Figure
from tests.benchmarks.network import bf16_error

sys.path.insert(0, str(Path(__file__).parents[2] / "workflows"))

import bench_gpu

DECODE_NS = 37
"""Of a core, to decode a pixel of ten bands."""
_NETWORK = {"network": "128/32", "precision": "bfloat16"}
_KEYS = ("gpu_rate_vs_device_only", "gpu_rate_vs_decode_floor", "gpu_busy_fraction", "gpu_bf16_error_per_km2")


def gpu(*, km: float, size: bench_gpu.Size | None = None) -> list[Figure]:
    """Rates of the shipped network's shape in bfloat16, and how wrong that is on a GPU."""
    if size is None and not torch.cuda.is_available():
        return [Figure(key=key, value=None, meaning="not measured: no GPU") for key in _KEYS]
    size = size or bench_gpu.Size(networks=((128, 32),))
    (row,) = (one for one in bench_gpu.measure(size) if one.items() >= _NETWORK.items())
    floor = cores() / DECODE_NS * 1e3  # million pixels a second
    exact, rounded = (
        Arithmetic.chosen(backend="torch", precision=one, device=size.device) for one in ("float32", "bfloat16")
    )
    told = f"{row['network']} in bfloat16: {row['files']:.3g} million pixels a second from files"
    return [
        Figure(
            key="gpu_rate_vs_device_only",
            value=row["files"] / row["device"],
            goal=(">=", 0.8),
            meaning=f"{told}, against the network alone; one of this and the next goal must be reached",
        ),
        Figure(
            key="gpu_rate_vs_decode_floor",
            value=row["files"] / floor,
            goal=(">=", 0.6),
            meaning=f"against {cores()} cores that do nothing but decode at {DECODE_NS} ns",
        ),
        Figure(
            key="gpu_busy_fraction", value=row["busy"], meaning="share of the time in which the GPU computes or copies"
        ),
        replace(bf16_error(exact, rounded, size_km=km), key="gpu_bf16_error_per_km2"),
    ]
