"""Process settings of a training, and its requirements of the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from subpixmap.errors import InputError
from subpixmap.training.config import TrainConfig


@contextmanager
def reproducible(config: TrainConfig) -> Iterator[None]:
    """Seed, threads and deterministic kernels, so that a seed decides every bit; all are as before when it ends."""
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    # Weights are drawn on the CPU and batches by numpy: no generator of a GPU is used.
    with torch.random.fork_rng(devices=[]):
        try:
            if config.threads:
                torch.set_num_threads(config.threads)
            torch.backends.cudnn.deterministic = True
            torch.default_generator.manual_seed(config.seed)
            yield
        finally:
            torch.backends.cudnn.deterministic = deterministic
            if config.threads:
                torch.set_num_threads(threads)


def is_fast() -> bool:
    """Whether convolutions in bfloat16 (`mixed`) and fused operations (`compile`) work here and are fast."""
    has = torch.cpu.get_capabilities()
    if not (has.get("avx512_bf16") or has.get("amx_bf16")):
        return False
    try:
        require_machine(TrainConfig(compile=True))
    except InputError:  # no compiler
        return False
    return True


def require_machine(config: TrainConfig) -> None:
    """Refuse a training for which this machine lacks a GPU or a compiler; the first compilation takes seconds."""
    if config.device not in ("cpu", "cuda"):
        raise InputError(f"training: device {config.device!r} is unknown; choose cpu or cuda")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("training: no usable GPU was found; use --device cpu")
    if config.compile:
        try:
            torch.compile(torch.sin)(torch.zeros(16, device=config.device))
        except (RuntimeError, OSError, ImportError) as error:  # a compiler, its headers or Triton is missing
            what = "a C++ compiler, with the headers of Python" if config.device == "cpu" else "Triton"
            raise InputError(f"training: --compile needs {what}; install it or give --no-compile") from error
