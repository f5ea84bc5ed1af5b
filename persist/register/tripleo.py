# SPDX-License-Identifier: LGPL-2.1-or-later
"""The list of paths that TripleO's use-ephemeral keeps in an image, old images' too.

A path a line, or ``path;flag``: with a flag, whatever it says, a symbolic link is left at the path. The last
program that wrote such lists took a line without a semicolon for one with a flag, which its document did not;
here it has none.
"""

from __future__ import annotations

import os
import stat

from persist.boot.paths import wrong_path
from persist.errors import PersistError
from persist.foresee.entries import USE_EPHEMERAL
from persist.foresee.image import Image
from persist.register.wish import Wish
from persist.system.files import write_atomically

LIST = USE_EPHEMERAL + "/stateful-paths"
LONGEST = 1 << 20  # Image.lines() reads no more


def read(image: Image) -> list[Wish]:
    """The paths of the list, each once; none where there is no list. Raises PersistError for a line that is
    no path, with file and line."""
    found: dict[str, Wish] = {}
    there = image.lstat(image.behind(LIST))
    if there is not None and not (stat.S_ISREG(there.st_mode) and there.st_size < LONGEST):
        raise PersistError(f"'{LIST}' is not a text file of less than 1 MiB.", hint="Look at what it is.")
    for number, line in image.lines(LIST):
        path, _, flag = line.rstrip("\r").rpartition(";") if ";" in line else (line.rstrip("\r"), "", "")
        if not path:
            continue
        path = path.rstrip("/") or path[:1]
        wrong = wrong_path(path)
        if wrong:
            raise PersistError(f"{LIST}:{number}: '{path}' {wrong}.", hint="Correct the list.")
        wish = Wish(path, "symlink" if flag.strip() else "bind")
        # Twice, once with a flag: whoever asked for the link has its path in some program.
        found[path] = wish if path not in found or wish.method == "symlink" else found[path]
    return list(found.values())


def add(wish: Wish, image: Image) -> bool:
    """Put a path on the list, or change its flag; whether that was to be done. Raises PersistError and
    OSError."""
    if ";" in wish.path:
        raise PersistError(f"'{wish.path}' has a semicolon, which the list cannot say.")
    wish = Wish(wish.path, wish.method)
    before = {each.path: each for each in read(image)}
    now = {**before, wish.path: wish}
    if before.get(wish.path) == wish:
        return False
    text = "".join(f"{w.path};{'true' if w.method == 'symlink' else ''}\n" for w in now.values())
    write_atomically((image.top + image.behind(os.path.dirname(LIST))) + "/stateful-paths", text)
    return True
