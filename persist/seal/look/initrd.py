# SPDX-License-Identifier: LGPL-2.1-or-later
"""The small files in an initrd. It is data of a tree that anybody may have made: it is unpacked nowhere, but
read from end to end, and what it says of its own size is not believed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO, cast

from persist.errors import PersistError
from persist.system.run import run

_MAGIC = (b"070701", b"070702")  # cpio, "newc", without and with a checksum
_HEADER = 110
_TRAILER = b"TRAILER!!!"
_SMALL = 1 << 16  # bytes of a file that is looked into; what holds an id is smaller
_MOST = 1 << 31  # bytes that are read of one archive
_PIECE = 1 << 20
# Compressed by what: the first bytes, and the command that unpacks a file into another one where Python
# cannot.
_TOOLS = {
    b"\x28\xb5\x2f\xfd": ("zstd", "-dqf", "-o"),
    b"\x02\x21\x4c\x18": ("lz4", "-dqf"),
    b"\x04\x22\x4d\x18": ("lz4", "-dqf"),
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


def _members(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """The small files of archives that follow one another, with zeros between; what is compressed within is
    read as well. Raises ValueError, EOFError, PersistError, OSError, and what the decompressors raise."""
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
        with ExitStack() as stack:
            yield from _members(_unpacked(begin, file, stack))
        return


def _unpacked(begin: bytes, file: BinaryIO, stack: ExitStack) -> BinaryIO:
    """A file with what a compressed rest of another one says; its first four bytes were read. Raises
    ValueError where nobody here knows how it is compressed."""
    work = stack.enter_context(tempfile.TemporaryDirectory(prefix="persist-seal-"))
    packed, plain = f"{work}/packed", f"{work}/plain"
    tool = _TOOLS.get(begin)
    opener = (
        gzip.open
        if begin[:2] == b"\x1f\x8b"
        else lzma.open
        if begin[:4] == b"\xfd7zX" or begin[:3] == b"\x5d\0\0"
        else bz2.open
        if begin[:3] == b"BZh"
        else None
    )
    if opener is None and (tool is None or not shutil.which(tool[0])):
        raise ValueError("compressed in a way that is not known here" + (f" ({tool[0]})" if tool else ""))
    with open(packed, "wb") as f:
        f.write(begin)
        shutil.copyfileobj(file, f)
    if opener is not None:
        return cast(BinaryIO, stack.enter_context(opener(packed, "rb")))
    assert tool is not None
    words = [*tool, plain, packed] if tool[-1] == "-o" else [*tool, packed, plain]
    run("prlimit", f"--fsize={_MOST}", *words)
    return stack.enter_context(open(plain, "rb"))


def small_files(fd: int) -> Iterator[tuple[str, bytes]]:
    """The small regular files in an initrd with their names. Raises ValueError with what is wrong, where it
    is no archive, or damaged, or compressed in a way that is not known here."""
    with open(os.dup(fd), "rb") as file:
        try:
            yield from _members(file)
        except EOFError:
            raise ValueError("it ends too early") from None
        except (OSError, PersistError, zlib.error, lzma.LZMAError) as e:
            raise ValueError(str(e)) from e
