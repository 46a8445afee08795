"""A file on a server as a Python file: every answer is checked, which GDAL does not do.

GDAL takes a whole file, or another part of it, for the part that it asked for. Where pixels are compressed with a check
sum it notices that when it unpacks them. The other files, which are rare, are read through here.
"""

from __future__ import annotations

import io
import itertools
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import rasterio
from rasterio.enums import Compression
from rasterio.errors import RasterioError

from subpixmap.errors import SubpixmapError
from subpixmap.scenes.hrefs import driver, redact
from subpixmap.scenes.http import get_bytes
from subpixmap.scenes.pins import Pin, require_unchanged

PART = 2**17
"""Bytes that are requested at least."""
MOST_PARTS = 64
"""Parts that are kept for each file."""

_CHECKED = (Compression.deflate, Compression.zstd, Compression.lzma, Compression.lerc_deflate, Compression.lerc_zstd)
_numbers = itertools.count()


def needs_checks(dataset: rasterio.DatasetReader) -> bool:
    """Whether wrong bytes of this file would pass for pixels."""
    return dataset.compression not in _CHECKED


@dataclass(frozen=True)
class Checked:
    """An open raster whose bytes are checked; GDAL cannot pass on what goes wrong."""

    dataset: rasterio.DatasetReader
    problems: list[Exception]

    def raise_problem(self) -> None:
        """Raise what went wrong since it was opened."""
        if self.problems:
            raise self.problems[0]


def open_checked(href: str, url: str, version: Pin, *, trusted: bool) -> Checked:
    """Open a raster on a server so that each answer is checked against its version.

    Parameters
    ----------
    href
        Of the asset; its extension says the driver.
    url
        The same, signed.
    version
        From `pin_of`.
    trusted
        See `get_bytes`.

    Raises
    ------
    Changed
        The file is not the version of before.
    OSError
        No answer, another one than was asked for, or not a raster.
    """
    problems: list[Exception] = []

    def opener(path: str, mode: str = "rb", **_: Any) -> RemoteFile:
        return RemoteFile(href, url, version, problems, trusted=trusted)

    name = f"{next(_numbers)}/{driver(href)}"  # rasterio allows one opener of a name at a time
    try:
        return Checked(rasterio.open(name, driver=driver(href), sharing=False, opener=opener), problems)
    except RasterioError:
        raise (problems or [OSError(f"{redact(href)} is not a raster")])[0] from None


class RemoteFile(io.RawIOBase):
    """Bytes of one version of a file."""

    def __init__(self, href: str, url: str, version: Pin, problems: list[Exception], *, trusted: bool) -> None:
        self.problems = problems
        self.href, self.url, self.version, self.trusted = href, url, version, trusted
        self.size, self.at = version.size or 0, 0
        self.parts: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def read(self, size: int = -1) -> bytes:
        """The next bytes; fewer at the end of the file, none after a problem."""
        first = self.at
        last = self.size if size is None or size < 0 else min(first + size, self.size)
        if first >= last:
            return b""
        numbers = range(first // PART, -(-last // PART))
        try:
            self._request(numbers)
        except (OSError, SubpixmapError) as error:
            self.problems.append(error)
            return b""
        content = b"".join(self.parts[number] for number in numbers)
        while len(self.parts) > MOST_PARTS:
            self.parts.popitem(last=False)
        self.at = last
        return content[first - numbers[0] * PART : last - numbers[0] * PART]

    def _request(self, wanted: range) -> None:
        """Fetch the parts that are not there, neighbours with one request."""
        absent = [number for number in wanted if number not in self.parts]
        for number in set(wanted) - set(absent):
            self.parts.move_to_end(number)
        for _, group in itertools.groupby(enumerate(absent), key=lambda pair: pair[1] - pair[0]):
            numbers = [number for _, number in group]
            begin, end = numbers[0] * PART, min((numbers[-1] + 1) * PART, self.size)
            content, version = get_bytes(self.url, begin, end, trusted=self.trusted)
            require_unchanged(self.href, self.version, version)
            for number in numbers:
                self.parts[number] = content[number * PART - begin : (number + 1) * PART - begin]
