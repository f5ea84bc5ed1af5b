# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist.conf. Boot-safe.

``[Volume]`` counts only from the image (/usr), /run and the command line: a volume must not configure its own
finding, and /etc may be kept on it.
"""

from . import preload
from .dropins import DIRECTORIES, fragments, read
from .ini import Problem, parse

DEFAULT_HEADER = "persist-please-format-me"


class Config:
    """persist.conf with its defaults. Sizes are in bytes, times in seconds; ``swap_size`` None is automatic.

    ``ephemeral``: the disks of Device= lose what is on them when the machine is stopped. ``options`` are
    mount options for a Device= that is not btrfs, ``netdev`` is whether _netdev is among them: the volume
    comes with the network. ``lines`` is where each key that counts was set.
    """

    machine_id = "empty"  # [Seal] MachineId=, and what the boot that seals has besides
    seal_allow: tuple[str, ...] = ()
    seal_timeout: int | None = None  # seconds, None where the units' own hold

    def __init__(self) -> None:
        self.device: list[str] = ["auto"]
        self.mount = "/mnt/state"
        self.fallback = "auto"
        self.member_timeout = 30
        self.allow_removable = False
        self.join = "by-id"
        self.magic_headers: list[str] = [DEFAULT_HEADER]
        self.swap_size: int | None = None
        self.format_blank = False
        self.ephemeral = False
        self.options = ""
        self.netdev = False
        self.lines: dict[str, str] = {}

    def where(self, key: str) -> str:
        """File and line of a setting, '' where it has its default."""
        return self.lines.get(key, "")


def _files(root: str, bases: tuple[str, ...], problems: list[Problem]) -> list[tuple[str, str]]:
    main = [f for f in fragments(root, "persist", problems, bases) if f[1].endswith("/persist.conf")]
    return main + fragments(root, "persist/persist.conf.d", problems, bases)


def load(root: str, problems: list[Problem]) -> Config:
    """Read persist/persist.conf (the highest one that is there), then persist/persist.conf.d/*.conf in order.

    /etc is read apart from the others: a file there must not even mask one that has a [Volume].
    """
    config = Config()
    for path, shown in _files(root, DIRECTORIES[1:], problems) + _files(root, DIRECTORIES[:1], problems):
        data = read(path, shown, problems, root)
        before = len(problems)
        if data:
            preload("rare/__init__", "rare/values", "rare/settings")  # most machines have no such file
            from .rare.settings import take

            for section in parse(data, shown, problems, "[Volume]"):
                take(config, section, problems)
        if len(problems) > before:
            from .rare.near import at_most  # only where something is wrong

            at_most(problems, before, shown)
    return config


def headers(config: Config) -> list[bytes]:
    """The magic headers that are accepted, as bytes."""
    return [h.encode("ascii") for h in config.magic_headers]
