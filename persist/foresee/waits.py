# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who waits for what we mount, found in an image before it boots: circles that PID 1 does not see, and units
that nothing orders."""

from __future__ import annotations

import re
from collections.abc import Iterator

from persist.boot.facts import UNIT_DIRECTORIES
from persist.boot.ini import ERROR, WARNING, Problem, words
from persist.boot.load import Loaded
from persist.boot.paths import VOLUME, parents, unescape
from persist.boot.plan import Planned
from persist.boot.units import EARLY_USERS
from persist.foresee.image import Image

# Names that nobody gives to a directory.
_FILES = re.compile(
    r"\.(?:bin|cer|cfg|conf|crt|csr|dat|db|env|img|ini|json|key|keytab|list|lock|log|pem|pid|pub|rules|secret|sock|sqlite3?|token|toml|txt|xml|ya?ml)$"
    r"|[_-]key$|/(?:adjtime|authorized_keys|fstab|group|gshadow|hostname|hosts|known_hosts|machine-id|passwd|random-seed|resolv\.conf|shadow)$"
)
_SETTING = re.compile(r"^(RequiresMountsFor|What)=(.*)$", re.MULTILINE)


def kept_at(path: str, loaded: Loaded) -> Planned | None:
    """The entry that shows a path, where it is kept."""
    entries = {p.path: p for p in loaded.plan.entries if p.entry.method in ("overlay", "bind", "symlink")}
    for at in (path, *parents(path)):
        if at in entries:
            return entries[at]
    return None


def _opened(spec: str) -> str:
    """The name under which cryptsetup(8) opens a device of Device=, '' for a device that is not of the device
    mapper."""
    for prefix in ("/dev/mapper/", "/dev/disk/by-id/dm-name-"):
        if spec.startswith(prefix):
            return spec[len(prefix) :]
    return ""


def _keys(name: str, fields: list[str], image: Image) -> Iterator[str]:
    """The files that a line of crypttab(5) needs."""
    key = fields[2] if len(fields) > 2 else "-"
    if key in ("-", "none"):
        key = f"/etc/cryptsetup-keys.d/{name}.key"
        if not image.kind_behind(key):
            key = ""
    options = fields[3].split(",") if len(fields) > 3 else []
    for path in (key, *[option[len("header=") :] for option in options if option.startswith("header=")]):
        if path.startswith("/") and not path.startswith("/dev/"):
            yield path


def opened_with_what_it_keeps(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """A volume that is opened with a file which is kept on it: each waits for the other until a time-out."""
    names = {_opened(spec) for spec in loaded.config.device} - {""}
    for number, line in image.lines("/etc/crypttab"):
        fields = words(line)
        if len(fields) < 2 or fields[0].startswith("#") or fields[0] not in names:
            continue
        for path in _keys(fields[0], fields, image):
            kept = kept_at(image.behind(path), loaded)
            if kept is not None:
                yield Problem(
                    ERROR,
                    f"/etc/crypttab:{number}",
                    f"{fields[0]} is opened with {path}, which {kept.entry.path} ({kept.entry.source}) "
                    "keeps on the state volume, and Device= is on it: each would wait for the other. Put the "
                    "file where no entry is.",
                    kept.entry.path,
                )
    for planned in loaded.plan.entries:
        for unit in planned.entry.services:
            if _opens(unit, names, loaded.config.device):
                yield Problem(
                    ERROR,
                    planned.entry.where("Services", unit),
                    f"Services={unit} opens the device of the state volume (Device=) and would wait "
                    f"for {planned.entry.path}, which waits for that device. Take it out of Services=.",
                    planned.entry.path,
                )


def _opens(unit: str, names: set[str], device: list[str]) -> bool:
    for prefix in ("systemd-cryptsetup@", "systemd-veritysetup@", "systemd-integritysetup@"):
        if unit.startswith(prefix) and unit.endswith(".service"):
            try:
                return unescape(unit[len(prefix) : -len(".service")])[1:] in names
            except ValueError:
                return False
    if unit.startswith(
        ("multipathd.", "lvm2-", "cryptsetup", "veritysetup", "blk-availability.", "dm-event.")
    ):
        return bool(names)
    return unit.startswith(("mdadm", "mdmon", "mdadm-")) and any(
        spec.startswith("/dev/md") for spec in device
    )


def named_like_files(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """Paths that would become empty directories, and are named as files are."""
    for planned in loaded.plan.entries:
        entry = planned.entry
        if (
            entry.method not in ("overlay", "bind", "symlink")
            or entry.type
            or not _FILES.search(planned.path)
        ):
            continue
        if image.kind(planned.path) or (entry.seed_from and image.kind_behind(entry.seed_from)):
            continue
        add = "Method=bind and Type=file" if entry.method == "overlay" else "Type=file"
        yield Problem(
            WARNING,
            entry.source,
            f"{entry.path} is not in the image and is named like a file, but would be made as an empty "
            f"directory. Add {add}, or Type=directory if it is one.",
            entry.path,
        )


def lines_that_stop_the_boot(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """Lines of fstab that use the volume, and that local-fs.target requires."""
    for use in loaded.plan.uses:
        options = use.line.options.split(",")
        # What the image has, too, is there without the volume.
        places = [place for place in use.places if not image.has(place)]
        if (
            places
            and use.line.where
            and use.line.fstype
            and not {"nofail", "noauto", "_netdev"} & set(options)
        ):
            yield Problem(
                WARNING,
                use.line.source,
                f"Uses {places[0]}, which comes from the state volume: a boot without the volume would "
                "end in the emergency shell. Add nofail to its options.",
            )


def _unordered(path: str, loaded: Loaded) -> bool:
    """Whether a unit that says that it needs a path is ordered after nothing by that: the volume and binds
    have no unit with a fragment."""
    for name in (loaded.config.mount, VOLUME):
        if path == name or path.startswith(name + "/"):
            return True
    kept = kept_at(path, loaded)
    return kept is not None and kept.entry.method != "overlay" and not kept.before_pid1


def units_that_do_not_wait(loaded: Loaded, image: Image) -> Iterator[Problem]:
    """Units that start before local-fs.target, and say what they use in a way that orders nothing here."""
    known = {unit for unit, _ in EARLY_USERS} | {
        unit for p in loaded.plan.entries for unit in p.entry.services
    }
    seen = set(known)
    for directory in UNIT_DIRECTORIES:
        for name in image.names(directory):
            if (
                name in seen
                or not name.endswith((".service", ".mount", ".swap"))
                or name.startswith("persist-")
            ):
                continue
            seen.add(name)
            text = "\n".join([line for _, line in image.lines(f"{directory}/{name}")])
            if "persist-" in text or (
                name.endswith(".service")
                and not re.search(r"^DefaultDependencies=(no|false|0|off)$", text, re.MULTILINE)
            ):
                continue
            for key, value in _SETTING.findall(text):
                for path in words(value):
                    if path.startswith("/") and "%" not in path and _unordered(path.rstrip("/"), loaded):
                        yield Problem(
                            WARNING,
                            f"{directory}/{name}",
                            f"{key}={path} does not order it: the state volume is mounted there "
                            "without a mount unit. Add After=persist-volume.service to it, or name "
                            "it in Services= of the entry.",
                        )
