# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine of the demo and of the story tests: a read-only Debian, persist, a package with a registry file
of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from . import cache, image
from .disks import Disk
from .errors import MachineError
from .system import System

HEADER = b"persist-please-format-me"
NOTES = {
    "DEBIAN/control": """Package: demo-notes
Version: 1.0
Architecture: all
Maintainer: persist maintainers <maintainers@example.org>
Description: five lines of registry, and something worth keeping
""",
    "usr/lib/persist.d/demo-notes.conf": """[Path]
Path=/var/lib/demo-notes
Method=bind
Mode=0750
Services=demo-notes.service
""",
    "var/lib/demo-notes/notes.txt": "shipped with the package\n",
    "usr/lib/systemd/system/demo-notes.service": """[Unit]
Description=Counts its own starts under /var/lib

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo started >>/var/lib/demo-notes/starts'

[Install]
WantedBy=multi-user.target
""",
}
# What QEMU says of the machine: formatting binds a volume to it.
DMI = ("-uuid", "4b1d7a52-9f5e-4c55-8d3a-5d9a3c1e7f00")
# Names that unit files, mount(8) and overlayfs each read in their own way.
ODD = ("/srv/my-data: 100% odd", "/srv/" + "long" * 52)
ODD_REGISTRY = {"/usr/lib/persist.d/odd.conf": "".join(f"[Path]\nPath={path}\n" for path in ODD)}
# A member that is away is waited for at each boot; 30 s, the default, would be most of the tests' time.
QUICK = {"/usr/lib/persist/persist.conf.d/50-test.conf": "[Volume]\nMemberTimeoutSec=5\n"}
SETUP = (
    "mkdir -p /mnt/state " + " ".join(f"'{path}'" for path in ODD),
    "systemctl enable persist-setup.target demo-notes.service && persistctl preset enable whole-system",
)


def checkout() -> Path:
    """The top of the source tree."""
    return Path(__file__).resolve().parents[2]


def packages() -> list[Path]:
    """The built packages: ``$PERSIST_DEBS`` (a list with blanks), or what ``make deb`` put into build/."""
    named = os.environ.get("PERSIST_DEBS", "").split()
    found = [Path(n) for n in named] if named else sorted((checkout() / "build").glob("persist*.deb"))
    if not found or not all(p.exists() for p in found):
        raise MachineError("the packages are not built; run 'make deb' first")
    return found


def notes_package() -> Path:
    """A tiny package that ships a five-line registry file; the same bytes each time, so that images are found
    again."""
    key = cache.digest(["demo-notes", *NOTES, *NOTES.values()])

    def make(target: Path) -> None:
        for name, text in NOTES.items():
            path = target / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", target / "tree", target / "demo-notes_1.0_all.deb"],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        )

    return cache.obtain("demo-notes", key, make, 2) / "demo-notes_1.0_all.deb"


def stick_image() -> Path:
    """A filesystem of our label with the subvolume that we mount, made by nobody we know. Its making needs a
    loop device: `make test` has it made before the layers run that look at all of them."""
    script = (
        'truncate -s 512M "$1"; mkfs.btrfs -q -L persist-data "$1"; mount -o loop "$1" /mnt; '
        "btrfs subvolume create /mnt/@persist-state; umount /mnt"
    )

    def make(target: Path) -> None:
        argv = ["unshare", "--mount", "sh", "-ec", script, "sh", str(target / "stick.raw")]
        subprocess.run(argv, check=True, capture_output=True)

    return cache.obtain("stick", cache.digest([script]), make, 2) / "stick.raw"


def stick(path: Path) -> Disk:
    """A disk of one's own with that filesystem."""
    subprocess.run(["cp", "--sparse=always", stick_image(), path], check=True)
    return Disk(path.stem, path, "raw")


def story_image(suite: str, variant: str = "ro", initrd: str = "initramfs-tools") -> image.Image:
    """The image with persist enabled, the preset whole-system and the demo package."""
    return image.build(
        suite,
        [*packages(), notes_package()],
        variant,
        customize=SETUP,
        files={**ODD_REGISTRY, **QUICK},
        initrd=initrd,
    )


def change_as_a_person_would(machine: System) -> None:
    """A user with a home, a changed sshd_config, a unit enabled only in /etc, a file of the demo package."""
    machine.succeed(
        "useradd --create-home --shell /bin/bash anna && echo 'Dear diary' >/home/anna/diary.txt && chown "
        "anna: /home/anna/diary.txt"
    )
    machine.succeed("echo 'PermitRootLogin no' >>/etc/ssh/sshd_config")
    machine.write_file(
        "/etc/systemd/system/hello.service",
        b"[Unit]\nDescription=Enabled only in "
        b"/etc\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
        b"[Install]\nWantedBy=multi-user.target\n",
    )
    machine.succeed("systemctl daemon-reload && systemctl enable --now hello.service")
    machine.succeed("echo 'my own note' >>/var/lib/demo-notes/notes.txt")
    for path in ODD:
        machine.succeed(f"echo odd >'{path}/file'")


# What must hold after a reboot: what it is, how to look, what the answer must contain.
SURVIVORS = (
    ("user anna", "getent passwd anna", ":/home/anna:"),
    ("her diary in /home/anna", "su anna -c 'cat ~/diary.txt'", "Dear diary"),
    ("sshd_config", "sshd -T | grep -i permitrootlogin", "permitrootlogin no"),
    ("unit enabled only in /etc", "systemctl is-active hello.service", "active"),
    (
        "note in /var/lib/demo-notes",
        "cat /var/lib/demo-notes/notes.txt",
        "shipped with the package\nmy own note",
    ),
    ("demo-notes.service wrote twice", "cat /var/lib/demo-notes/starts", "started\nstarted"),
    ("a file below an odd name", f"cat '{ODD[0]}/file'", "odd"),
    ("a file below a long name", f"cat '{ODD[1]}/file'", "odd"),
    ("ssh host key", "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub", ""),
    ("machine-id", "cat /etc/machine-id", ""),
    ("journal of the first boot", "journalctl --list-boots --no-pager -q | wc -l", "2"),
)


def look(machine: System) -> dict[str, str]:
    """What each survivor shows now, '' where looking failed."""
    seen = {}
    for what, command, _ in SURVIVORS:
        status, out = machine.execute(command)
        seen[what] = out.strip() if status == 0 else ""
    return seen


def compare(before: dict[str, str], after: dict[str, str]) -> list[tuple[str, str, bool]]:
    """One row for each survivor: what, what it shows now, whether it survived."""
    rows = []
    for what, _, wanted in SURVIVORS:
        shown = after[what]
        # Without a text of its own, a survivor must be what it was.
        good = wanted in shown if wanted else bool(shown) and shown == before[what]
        rows.append((what, shown.splitlines()[-1] if shown else "(nothing)", good))
    return rows
