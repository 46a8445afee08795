"""Stores tensors and a card in one safetensors file with a hash over both. Pickles are refused unread.

The card is JSON under one key of the file's metadata, so that the same model gives the same bytes. PyTorch is not
needed here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from subpixmap.errors import InputError

_MOST_TEXT = 2**26  # characters of a card; the land that it was taught on takes most of them
# What is raised on a file of tensors that is damaged or lies.
_UNREADABLE = (SafetensorError, ValueError, TypeError, RuntimeError, OSError, RecursionError, MemoryError)
_PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def unseal(path: Path, *, key: str) -> tuple[str, str, dict[str, NDArray[Any]]]:
    """(card, sha256, tensors) of a file; `key` of the metadata says which kind of model it is.

    Raises
    ------
    InputError
        A pickle, another kind of file or of model, a truncated one, or one that changed since it was saved.
    """
    require_no_pickle(path)
    try:
        with safe_open(str(path), framework="np") as file:
            inside = json.loads((file.metadata() or {})[key])
            card, stated = inside["card"], inside["sha256"]
            if not isinstance(card, str) or not isinstance(stated, str):
                raise TypeError("its card is not a text")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except KeyError as error:
        raise InputError(f"{path}: a safetensors file without a {key} card") from error
    except _UNREADABLE as error:
        raise InputError(f"{path}: not a complete safetensors file ({error})") from error
    if hash_of(card, tensors) != stated:
        raise InputError(f"{path}: card or tensors were changed (sha256 differs); get the file again")
    return card, stated, tensors


def require_no_pickle(path: Path) -> None:
    """Refuse what `torch.save` writes."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if start in _PICKLES:
        raise InputError(
            f"{path}: this is a pickle (torch.save), which is refused because it can run code; save the "
            "model as safetensors"
        )


def hash_of(card: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """sha256 over the text of a card and the tensors that it describes."""
    digest = hashlib.sha256(card.encode())
    for key in sorted(tensors):
        values = tensors[key]
        # PyTorch's name of the type: the hashes of older files were taken with it.
        digest.update(f"\0{key}\0torch.{values.dtype}\0{tuple(values.shape)}\0".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def fields_from_json(card: type[Any], text: str) -> dict[str, Any]:
    """Fields of a card, a dataclass; unknown, missing or mistyped ones are refused by name. Lists become tuples."""
    if len(text) > _MOST_TEXT:
        raise InputError(f"the card has {len(text):,} characters; the limit is {_MOST_TEXT:,}")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, a number of thousands of digits, nested too deeply
        raise InputError(f"the card is not JSON that can be read ({error})") from error
    if not isinstance(fields, dict):
        raise InputError("the card is not a JSON object")
    possible = {f.name: f for f in dataclasses.fields(card)}
    required = {n for n, f in possible.items() if f.default is f.default_factory is dataclasses.MISSING}
    if wrong := (set(fields) - set(possible)) | (required - set(fields)):
        raise InputError(f"the card has missing or unknown fields: {', '.join(sorted(wrong))}")
    for name, value in fields.items():
        if not _fits(value, str(possible[name].type)):
            raise InputError(f"the card's field {name} is not of type {possible[name].type}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _fits(value: Any, annotation: str) -> bool:
    """Whether a value from JSON is of a field's type, such as `tuple[str, ...]` or `Mapping[str, float]`."""
    kind, _, inside = annotation.removesuffix("]").partition("[")
    if kind == "Mapping":
        return isinstance(value, dict) and all(_fits(one, inside.partition(", ")[2]) for one in value.values())
    if kind == "tuple":
        parts = inside.split(", ")
        if not isinstance(value, list) or (parts[-1] != "..." and len(value) != len(parts)):
            return False
        return all(_fits(one, parts[0]) for one in value)
    if kind in ("int", "float"):
        right = isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
        return right and -sys.float_info.max <= value <= sys.float_info.max  # no NaN, and nothing that no float holds
    return kind == "Any" or isinstance(value, bool if kind == "bool" else str)
