# SPDX-License-Identifier: LGPL-2.1-or-later
"""Golden cases of the generator: a machine's files as one text, and what the generator makes of them as
another.

``input`` begins with lines that say what the case is about, each with a ``#``. Then come sections:

    == enabled                      a link that enables persist-setup.target
    == file PATH                    a file; the lines below are its content
    == bytes PATH                   the same, with the escapes below and without the newline at the end of
    each line
    == fill PATH SIZE               a file of SIZE times '#'
    == link PATH -> TARGET          a symbolic link
    == dir PATH                     a directory; parents are always made
    == fifo PATH                    a named pipe
    == preset NAME                  units/presets/NAME.conf as /usr/lib/persist.d/NAME.conf
    == cmdline TEXT                 /proc/cmdline
    == env KEY=VALUE                a variable for the generator
    == seal LINE                    a request to seal, made a minute ago; LINE has more of its fields, in JSON
    == seal-units                   the units of a boot that seals, as files with one line

PATH, TARGET and the content of ``bytes`` know the escapes \\xNN (a byte), \\n and \\\\, so that no odd file
name and no binary file is in git.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from persist.boot.paths import SEAL_REQUEST
from persist.boot.seal.look import UNITS

REPOSITORY = Path(__file__).resolve().parents[2]
GENERATOR = REPOSITORY / "generators" / "persist-generator"
CASES = Path(__file__).resolve().parent / "cases"
ENABLED = b"/etc/systemd/system/local-fs.target.wants/persist-setup.target"


def decode(text: str) -> bytes:
    def one(match: re.Match[bytes]) -> bytes:
        what = match[1]
        return b"\n" if what == b"n" else b"\\" if what == b"\\" else bytes([int(what[1:], 16)])

    return re.sub(rb"\\(x[0-9a-f]{2}|n|\\)", one, text.encode())


class Case:
    """A machine described by an ``input`` text."""

    def __init__(self, text: str) -> None:
        self.env: dict[str, str] = {}
        self.actions: list[tuple[str, bytes, bytes]] = []
        head, *sections = re.split(r"^== ", text, flags=re.MULTILINE)
        assert all(line.startswith("#") for line in head.splitlines()), "text before the first section"
        for section in sections:
            line, _, body = section.partition("\n")
            kind, _, rest = line.partition(" ")
            self._section(kind, rest, body)

    def _section(self, kind: str, rest: str, body: str) -> None:
        assert not body.strip() or kind in ("file", "bytes"), f"content below '== {kind}'"
        if kind == "enabled":
            self.actions.append(("link", ENABLED, b"/usr/lib/systemd/system/persist-setup.target"))
        elif kind == "file":
            self.actions.append(("file", decode(rest), body.encode()))
        elif kind == "bytes":
            self.actions.append(("file", decode(rest), decode(body.replace("\n", ""))))
        elif kind == "fill":
            path, _, size = rest.rpartition(" ")
            self.actions.append(("file", decode(path), b"#" * int(size)))
        elif kind == "link":
            path, sep, target = rest.partition(" -> ")
            assert sep, "link without a target"
            self.actions.append(("link", decode(path), decode(target)))
        elif kind in ("dir", "fifo"):
            self.actions.append((kind, decode(rest), b""))
        elif kind == "preset":
            shipped = REPOSITORY / "units" / "presets" / (rest + ".conf")
            self.actions.append(
                ("file", b"/usr/lib/persist.d/" + rest.encode() + b".conf", shipped.read_bytes())
            )
        elif kind == "cmdline":
            self.actions.append(("file", b"/proc/cmdline", rest.encode() + b"\n"))
        elif kind == "seal":
            fields = {"id": "local-1", "machine_id": "", "uuid": "", "time": int(time.time()) - 60}
            self.actions.append(
                ("file", SEAL_REQUEST.encode(), json.dumps(fields | json.loads(rest)).encode())
            )
        elif kind == "seal-units":
            for unit in UNITS:
                self.actions.append(("file", f"/usr/lib/systemd/system/{unit}".encode(), b"[Unit]\n"))
        elif kind == "env":
            key, _, value = rest.partition("=")
            self.env[key] = value
        else:
            raise AssertionError(f"unknown section '== {kind}'")

    def build(self, root: Path) -> None:
        """Make the machine's files below an empty directory."""
        for kind, path, content in self.actions:
            at = os.fsencode(root) + path
            os.makedirs(os.path.dirname(at), exist_ok=True)
            if kind == "file":
                with open(at, "wb") as f:
                    f.write(content)
            elif kind == "link":
                os.symlink(content, at)
            elif kind == "fifo":
                os.mkfifo(at)
            else:
                os.makedirs(at, exist_ok=True)


def run(
    root: Path, directories: list[Path], env: dict[str, str] | None = None, prefix: Sequence[str] = ()
) -> tuple[int, str]:
    """The real generator with an empty environment but for ours, started by the command ``prefix``: (exit
    status, standard error)."""
    done = subprocess.run(
        [*prefix, str(GENERATOR), *[str(d) for d in directories]],
        env={"PERSIST_LIBRARY": str(REPOSITORY), "PERSIST_GENERATOR_ROOT": str(root), **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        umask=0o022,
        check=False,
    )
    assert not done.stdout, "a generator has nothing to say on standard output"
    return done.returncode, done.stderr.decode("utf-8", "backslashreplace")


def _shown(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def blocks(directory: Path, prefix: str = "") -> list[str]:
    """All that is below a directory as text, a block each, with PREFIX before the names."""
    out: list[str] = []
    top = os.fsencode(directory)
    for base, dirs, files in os.walk(top):
        dirs.sort()
        for name in dirs + files:
            at = os.path.join(base, name)
            shown = prefix + _shown(os.path.relpath(at, top))
            mode = os.lstat(at).st_mode
            if stat.S_ISLNK(mode):
                out.append(f"== link {shown} -> {_shown(os.readlink(at))}\n")
            elif stat.S_ISDIR(mode):
                out.append(f"== dir {shown} {stat.S_IMODE(mode):04o}\n")
            else:
                with open(at, "rb") as f:
                    content = f.read().decode("utf-8", "backslashreplace")
                assert content.endswith("\n")
                out.append(f"== file {shown} {stat.S_IMODE(mode):04o}\n{content}")
    return out


def record(status: int, stderr: str, found: list[str]) -> str:
    """The ``expected`` text of one run; FOUND is what it wrote."""
    said = "== standard error\n" + stderr if stderr else ""
    return f"== exit status {status}\n" + said + "".join(sorted(found))
