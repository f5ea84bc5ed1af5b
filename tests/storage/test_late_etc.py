# SPDX-License-Identifier: LGPL-2.1-or-later
"""/etc that comes after PID 1 on a boot that does not seed it: PID 1's bind on machine-id must not be left
below it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from persist.entries import late_etc
from persist.errors import PersistError
from persist.system import mountinfo

from .namespace import disk, kept, kept_overlay, own_machine, registry, sh

TRANSIENT, OURS = "a" * 32, "b" * 32
ENTRY = "[Path]\nPath=/etc\nMethod={}\n"


def bound() -> None:
    """As PID 1 leaves it on a read-only image."""
    Path("/run/machine-id").write_text(f"{TRANSIENT}\n")
    sh("mount --bind /run/machine-id /etc/machine-id")


def there() -> bool:
    """Whether the bind is still there."""
    return mountinfo.at("/etc/machine-id") is not None


@own_machine
def test_the_bind_gives_way() -> None:
    disk()
    (kept_overlay("/etc") / "machine-id").write_text(f"{OURS}\n")
    bound()
    said = late_etc.give_way(registry(ENTRY.format("overlay")))
    assert said is not None and "Unmounted" in said.message and not there()
    assert late_etc.give_way(registry(ENTRY.format("overlay"))) is None


@own_machine
def test_a_bind_entry() -> None:
    disk()
    kept("/etc", "x")
    Path("/run/persist/volume/etc/machine-id").write_text(f"{OURS}\n")
    bound()
    assert late_etc.give_way(registry(ENTRY.format("bind"))) is not None and not there()


@own_machine
def test_it_stays_where_nothing_takes_its_place() -> None:
    """Without it /etc/machine-id would be empty."""
    disk()
    bound()
    assert late_etc.give_way(registry("[Path]\nPath=/srv/x\n")) is None and there()
    assert late_etc.give_way(registry(ENTRY.format("overlay"))) is None and there(), "it was not seeded"
    upper = kept_overlay("/etc")
    for text in ("", "uninitialized\n", "0" * 32 + "\n", OURS + "\n\n", "\udcff"):
        (upper / "machine-id").write_text(text, errors="surrogateescape")
        assert late_etc.give_way(registry(ENTRY.format("overlay"))) is None and there(), text
    os.unlink(upper / "machine-id")
    os.symlink("/run/machine-id", upper / "machine-id")
    # A link on a volume is not followed; the service says so and goes on.
    with suppress(OSError, PersistError):
        assert late_etc.give_way(registry(ENTRY.format("overlay"))) is None
    assert there()
