"""The map's 16 bits: how much room a pixel takes, and that sums, missing pixels and steps stay what they are."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from subpixmap.errors import InputError
from subpixmap.mapping.quantise import FILL, STEP, ZERO, as_stored, decode, encode
from subpixmap.mapping.schema import _CODECS


def predicted(rng: Any, n: Any) -> Any:
    """(n, 256, 256) as the demo's model predicts: plantations, and everywhere else noise that is not quite around 0."""
    smooth = gaussian_filter(rng.normal(size=(n, 256, 256)), (0, 12, 12), mode="wrap")
    grove = smooth > np.quantile(smooth, 0.8)
    noise = rng.normal(-0.0004, 0.03, (n, 256, 256))
    return np.where(grove, 0.55 + rng.normal(0, 0.3, grove.shape), noise).astype(np.float32)


def compressed_bytes(stored: Any) -> Any:
    """Of one inner chunk."""
    import google_crc32c
    from numcodecs import Blosc

    blosc, crc = _CODECS
    assert crc.to_dict()["name"] == "crc32c"
    codec = Blosc(blosc.cname.value, blosc.clevel, Blosc.SHUFFLE)
    data = codec.encode(stored)
    return len(data) + len(google_crc32c.Checksum(data).digest())  # type: ignore[no-untyped-call]


def test_a_pixel_takes_nine_bits_and_totals_are_kept() -> None:
    rng, pixels, size, exact, kept = np.random.default_rng(0), 0, 0, 0.0, 0.0
    while pixels < 16e6:
        values = predicted(rng, 32)
        stored = encode(values)
        size += sum(compressed_bytes(chunk + np.int16(ZERO)) for chunk in stored)
        exact, kept = exact + values.sum(dtype=float), kept + decode(stored).sum(dtype=float)
        pixels += values.size
    assert 8 * size / pixels < 8
    assert abs(kept / exact - 1) < 1e-7
    by_pixel = np.rint(values / STEP).sum(dtype=float) * STEP
    assert (
        abs(by_pixel / values.sum(dtype=float) - 1) > 1e-6
    )  # of the last 2 Mpx, had each pixel been rounded by itself


@settings(deadline=None, max_examples=30)
@given(
    level=st.floats(-3, 3),
    spread=st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 2.0]),
    hidden=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_runs_and_chunks_keep_their_sums(level: Any, spread: Any, hidden: Any, seed: Any) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(level, spread, (2, 256, 512)).astype(np.float32)
    values[rng.random(values.shape) < hidden] = np.nan
    stored = encode(values)
    assert stored.dtype == np.int16
    again = decode(stored)
    assert again.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(again), np.isnan(values))
    np.testing.assert_array_equal(stored == FILL, np.isnan(values))
    np.testing.assert_array_equal(encode(again), stored)
    error = np.nan_to_num(again).astype(float) - np.nan_to_num(values).astype(float)
    rows = np.cumsum(error.reshape(2, 256, 2, 256).transpose(0, 2, 1, 3).reshape(4, -1), axis=1)
    assert np.abs(error).max() <= STEP * 1.001
    assert np.abs(rows).max() <= STEP / 2 * 1.001
    shares = as_stored({"presence": np.abs(values) % 1})["presence"]
    assert np.nanmin(shares, initial=0) >= 0
    assert np.nanmax(shares, initial=0) <= 1


def test_what_does_not_fit_is_told() -> None:
    values = np.zeros((1, 256, 256), np.float32)
    values[0, 7, 7] = 63.8
    assert decode(encode(values))[0, 7, 7] == pytest.approx(63.8, abs=STEP)
    for wrong in (63.9, -64.1, np.inf):
        values[0, 7, 7] = wrong
        with pytest.raises(InputError, match=f"{abs(wrong):.4g}.*--resolution"):
            encode(values)
    counts = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    assert as_stored({"n_obs": counts})["n_obs"] is counts
