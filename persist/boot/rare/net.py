# SPDX-License-Identifier: LGPL-2.1-or-later
"""A volume that comes with the network (``_netdev`` in Options=). Boot-safe.

The network comes after sysinit.target, and that after local-fs.target. So an entry on such a volume can only
be there for services that are told to wait for it; whatever has to be there before is refused, because PID 1
would break the cycle by dropping one of the units.
"""

from ..facts import Facts
from ..fstab import mounted_by_units
from ..paths import parents
from ..units import BACKLIGHT, DROPIN, EARLY_USERS, FIRST_LINE, NET_UNIT, READ_BY_PID1, VOLUME_UNIT, serves

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..plan import Planned

_NEEDED_EARLY = (
    "/etc",
    "/root",
    "/tmp",
    "/usr/local",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/tmp",
    *READ_BY_PID1,
)
_WHY = ", and the volume comes with the network (_netdev)"


def _mounted_below(facts: Facts) -> dict[str, str]:
    """For each directory that others mount something below, fstab and the units that are shipped, the first
    such path."""
    if facts.mounted_below is not None:
        return facts.mounted_below
    below: dict[str, str] = {}
    for mounted in sorted([*facts.fstab, *mounted_by_units(facts).values()]):
        for parent in parents(mounted):
            below.setdefault(parent, mounted)
    facts.mounted_below = below
    return below


def refusal(planned: "Planned", facts: Facts) -> str:
    """Why an entry cannot be on such a volume, or ''. Entries that need no volume can; holes go with the
    entry that they are in."""
    entry, path = planned.entry, planned.path
    if entry.method in ("tmpfs", "image"):
        return ""
    for unit, used in (*EARLY_USERS, BACKLIGHT):
        if serves(path, used):
            return unit + " needs it before local-fs.target" + _WHY
    if path in _NEEDED_EARLY:
        return "it is needed before local-fs.target" + _WHY
    if entry.required == "boot":
        return "Required=boot makes local-fs.target wait for it" + _WHY
    if not entry.services:
        return "no service waits for it" + _WHY + "; name those that use it in Services="
    if entry.method != "symlink":
        mounted = _mounted_below(facts).get(path)
        if mounted:
            return mounted + " below it is mounted before, and would be hidden" + _WHY
    return ""


def files(wants: list[str]) -> dict[str, str]:
    """The drop-ins that move the volume, and the units that are wanted of it, from local-fs.target to
    remote-fs.target."""
    wants = [NET_UNIT, *wants]
    return {
        # Always false: persist-setup.target wants this unit by itself.
        VOLUME_UNIT + ".d/" + DROPIN: FIRST_LINE + "[Unit]\nConditionPathExists=!/\n",
        "persist-verify.service.d/" + DROPIN: FIRST_LINE
        + "[Unit]\nAfter="
        + NET_UNIT
        + " remote-fs.target\n",
        "remote-fs.target.d/" + DROPIN: FIRST_LINE
        + "[Unit]\nWants="
        + "\nWants=".join(wants)
        + "\nAfter="
        + "\nAfter=".join(wants)
        + "\n",
    }
