"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data; tests that need it are marked `realdata` and skip without it."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SUBPIXMAP_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("the real data folder is missing; set SUBPIXMAP_TEST_DATA to it")
    return folder
