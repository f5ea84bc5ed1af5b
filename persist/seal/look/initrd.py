# SPDX-License-Identifier: LGPL-2.1-or-later
"""The small files in an initrd. It is data of a tree that anybody may have made: it is unpacked nowhere, but
read from end to end, and what it says of its own size is not believed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from persist.errors import PersistError
from persist.system.run import unpacking

_MAGIC = (b"070701", b"070702")  # cpio, "newc", without and with a checksum
_HEADER = 110
_TRAILER = b"TRAILER!!!"
_SMALL = 1 << 16  # bytes of a file that is looked into; what holds an id is smaller
_MOST = 1 << 31  # bytes that are read of one archive
_PIECE = 1 << 20
# Compressed by what: the first bytes, and the program that unpacks it where Python cannot.
_TOOLS = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x04\x22\x4d\x18": "lz4",
}


class _Reader:
    """Reads on, never beyond _MOST."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.at = 0

    def take(self, size: int) -> bytes:
        """So many bytes. Raises EOFError where there are fewer, PersistError where it is too much."""
        self.at += size
        if self.at > _MOST:
            raise PersistError("it is larger than 2 GiB")
        data = self.file.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def skip(self, size: int) -> None:
        """Read so many bytes and forget them."""
        while size > 0:
            size -= len(self.take(min(size, _PIECE)))

    def align(self) -> None:
        """Read on to a multiple of four."""
        self.skip(-self.at % 4)


def _archive(reader: _Reader, header: bytes) -> Iterator[tuple[str, bytes]]:
    """The small files of one archive whose first header was read."""
    while True:
        if header[:6] not in _MAGIC:
            raise ValueError("no cpio archive")
        fields = [int(header[i : i + 8], 16) for i in range(6, _HEADER, 8)]
        size, name_size = fields[6], fields[11]
        if name_size > 4096:
            raise ValueError("a name that is too long")
        name = reader.take(name_size).rstrip(b"\0")
        reader.align()
        if name == _TRAILER:
            return
        if size <= _SMALL:
            data = reader.take(size)
            if fields[1] & 0o170000 == 0o100000:
                yield name.decode("utf-8", "replace").removeprefix("./"), data
        else:
            reader.skip(size)
        reader.align()
        header = reader.take(_HEADER)


class _From:
    """A file whose first bytes were read already, for what unpacks it."""

    def __init__(self, begin: bytes, file: BinaryIO) -> None:
        self._begin = begin
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """As a file does it."""
        if self._begin:
            size = size if size >= 0 else len(self._begin)
            begin, self._begin = self._begin[:size], self._begin[size:]
            return begin
        return self._file.read(size)


def _members(file: BinaryIO, *, top: bool = True) -> Iterator[tuple[str, bytes]]:
    """The small files of archives that follow one another, with zeros between; what is compressed within is
    read as well, once. Raises ValueError, EOFError, PersistError, OSError, and what the decompressors
    raise."""
    reader = _Reader(file)
    while True:
        begin = reader.file.read(4)
        reader.at += len(begin)
        if len(begin) < 4:
            return
        if begin == b"\0\0\0\0":
            continue
        if begin == _MAGIC[0][:4]:
            yield from _archive(reader, begin + reader.take(_HEADER - 4))
            reader.align()
            continue
        if not top:
            raise ValueError("compressed in what is compressed")
        with _unpacked(begin, file) as inner:
            yield from _members(inner, top=False)
        return


@contextmanager
def _unpacked(begin: bytes, file: BinaryIO) -> Iterator[BinaryIO]:
    """What a compressed rest of a file says; its first four bytes were read. Nothing of it is written
    anywhere. Raises ValueError where nobody here knows how it is compressed."""
    tool = _TOOLS.get(begin, "")
    if tool and shutil.which(tool):
        os.lseek(file.fileno(), file.tell() - len(begin), os.SEEK_SET)
        with unpacking(tool, "-dqc", stdin=file.fileno()) as found:
            yield cast(BinaryIO, found)
        return
    rest = cast(BinaryIO, _From(begin, file))
    if begin[:2] == b"\x1f\x8b":
        import gzip
        import zlib

        try:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=rest, mode="rb"))
        except zlib.error as e:
            raise ValueError(str(e)) from e
    elif begin[:4] == b"\xfd7zX" or begin[:3] == b"\x5d\0\0":
        import lzma

        try:
            yield cast(BinaryIO, lzma.LZMAFile(rest))  # noqa: SIM115  # it closes nothing of ours
        except lzma.LZMAError as e:
            raise ValueError(str(e)) from e
    elif begin[:3] == b"BZh":
        import bz2

        yield cast(BinaryIO, bz2.BZ2File(rest))  # noqa: SIM115
    else:
        raise ValueError("compressed in a way that is not known here" + (f" ({tool})" if tool else ""))


def small_files(fd: int) -> Iterator[tuple[str, bytes]]:
    """The small regular files in an initrd with their names. Raises ValueError with what is wrong, where it
    is no archive, or damaged, or compressed in a way that is not known here."""
    with open(os.dup(fd), "rb") as file:
        try:
            yield from _members(file)
        except EOFError:
            raise ValueError("it ends too early") from None
        except (OSError, PersistError) as e:
            raise ValueError(str(e)) from e
