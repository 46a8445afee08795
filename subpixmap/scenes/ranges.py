"""A remote file as a Python file with checked responses, because GDAL does not check them.

GDAL accepts a whole file, or another part of it, in place of the requested part. If pixels are compressed with a
checksum, it notices this when unpacking. Other files, which are rare, are read through this module.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import rasterio
from rasterio.enums import Compression
from rasterio.errors import RasterioError

from subpixmap.scenes.hrefs import driver, redact
from subpixmap.scenes.http import get_bytes
from subpixmap.scenes.pins import Pin, require_unchanged

PART = 2**17
"""Smallest request, bytes."""
MOST_PARTS = 64
"""Number of parts kept in memory per file."""

_CHECKED = (Compression.deflate, Compression.zstd, Compression.lzma, Compression.lerc_deflate, Compression.lerc_zstd)
_numbers = itertools.count()


def needs_checks(dataset: rasterio.DatasetReader) -> bool:
    """Whether GDAL could take wrong bytes of this file for pixels."""
    return dataset.compression not in _CHECKED


@dataclass(frozen=True)
class Checked:
    """A remote raster; each response is checked against its version. For use by one thread."""

    href: str
    """Href of the asset; its extension decides the driver."""
    url: str
    """The same, signed."""
    version: Pin
    """From `pin_of`."""
    trusted: bool
    """See `get_bytes`."""
    parts: OrderedDict[int, bytes] = field(default_factory=OrderedDict)
    """The bytes read last, kept between openings."""

    @contextlib.contextmanager
    def open(self) -> Iterator[rasterio.DatasetReader]:
        """Open the raster for the block, in this thread, and close it.

        It must not stay open: rasterio keeps the Python file of a dataset in a context variable of the thread that
        opened it. Once that thread has ended, GDAL's pointer is invalid, and closing or freeing the dataset crashes the
        process.

        Raises
        ------
        Changed
            The file is not the version that was read before.
        OSError
            No response, a wrong response, or not a raster.
        """
        problems: list[BaseException] = []  # GDAL cannot pass on exceptions, not even Ctrl-C

        def opener(path: str, mode: str = "rb", **_: Any) -> RemoteFile:
            return RemoteFile(self, problems)

        name = f"{next(_numbers)}/{driver(self.href)}"  # rasterio allows one opener per name at a time
        try:
            with rasterio.open(name, driver=driver(self.href), sharing=False, opener=opener) as dataset:
                yield dataset
        except RasterioError:
            raise (problems or [OSError(f"{redact(self.href)} is not a raster")])[0] from None
        if problems:
            raise problems[0]


class RemoteFile(io.RawIOBase):
    """Bytes of one version of a file."""

    def __init__(self, raster: Checked, problems: list[BaseException]) -> None:
        self.raster, self.parts, self.problems = raster, raster.parts, problems
        self.size, self.at = raster.version.size or 0, 0

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
        if first >= last or self.problems:
            return b""
        numbers = range(first // PART, -(-last // PART))
        try:
            self._request(numbers)
        except BaseException as error:  # raised again behind GDAL
            self.problems.append(error)
            return b""
        content = b"".join(self.parts[number] for number in numbers)
        while len(self.parts) > MOST_PARTS:
            self.parts.popitem(last=False)
        self.at = last
        return content[first - numbers[0] * PART : last - numbers[0] * PART]

    def _request(self, wanted: range) -> None:
        """Fetch missing parts; neighbouring parts with one request."""
        absent = [number for number in wanted if number not in self.parts]
        for number in set(wanted) - set(absent):
            self.parts.move_to_end(number)
        for _, group in itertools.groupby(enumerate(absent), key=lambda pair: pair[1] - pair[0]):
            numbers = [number for _, number in group]
            begin, end = numbers[0] * PART, min((numbers[-1] + 1) * PART, self.size)
            content, version = get_bytes(self.raster.url, begin, end, trusted=self.raster.trusted)
            require_unchanged(self.raster.href, self.raster.version, version)
            for number in numbers:
                self.parts[number] = content[number * PART - begin : (number + 1) * PART - begin]
