# SPDX-License-Identifier: LGPL-2.1-or-later
"""Services= of entries: which units wait for one, and which cannot. Boot-safe; loaded only where an entry has
it."""

from ..ini import ERROR, WARNING, Problem, words
from ..paths import escape, parents, specifiers
from ..units import FIRST_LINE, NET_UNIT, VOLUME_UNIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..accept import Planned
    from ..facts import Facts
    from ..plan import Plan

# Not all that begins like them: a user's own unit may.
OURS = (
    "persist-format.path",
    "persist-format.service",
    "persist-heal.path",
    "persist-heal.service",
    "persist-heal.timer",
    "persist-online.target",
    "persist-operator-script.service",
    "persist-regenerate.service",
    "persist-scrub.service",
    "persist-scrub.timer",
    "persist-seal-begin.service",
    "persist-seal-end.service",
    "persist-seal-net.service",
    "persist-seal-net.target",
    "persist-seal-off.service",
    "persist-seal-refused.service",
    "persist-seal.service",
    "persist-seal.target",
    "persist-settle.service",
    "persist-setup.target",
    "persist-soft-reboot-stage.service",
    "persist-soft-reboot.service",
    "persist-verify.service",
    NET_UNIT,
    VOLUME_UNIT,
)
OUR_TEMPLATES = ("persist-absent@", "persist-bind@", "persist-link@", "persist-migrate@", "persist-seed@")
# What is ordered before persist-volume.service, directly or not (systemd 252 and 257), and so cannot wait for
# an entry: PID 1 would break the circle by dropping a job, ours for one.
BEFORE_US = (
    "kmod-static-nodes.service",
    "systemd-firstboot.service",
    "systemd-fsck-root.service",
    "systemd-fsckd.service",
    "systemd-fsckd.socket",
    "systemd-hwdb-update.service",
    "systemd-network-generator.service",
    "systemd-remount-fs.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-setup-dev-early.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-udev-load-credentials.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "udev.service",
    "systemd-journald.socket",
    "local-fs-pre.target",
    "-.mount",
    "usr.mount",
)
# The same for a volume that comes with the network.
BEFORE_NET = (
    "NetworkManager-wait-online.service",
    "NetworkManager.service",
    "basic.target",
    "connman.service",
    "dbus-broker.service",
    "dbus.service",
    "dbus.socket",
    "dhcpcd.service",
    "iscsid.service",
    "local-fs.target",
    "network-online.target",
    "network-pre.target",
    "network.target",
    "networking.service",
    "open-iscsi.service",
    "paths.target",
    "remote-fs-pre.target",
    "slices.target",
    "sockets.target",
    "swap.target",
    "sysinit.target",
    "systemd-networkd-wait-online.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-resolved.service",
    "systemd-tmpfiles-setup.service",
    "wpa_supplicant.service",
)
_ANYWAY = ("local-fs.target", "sysinit.target", "basic.target")


def _goes_round(plan: "Plan", planned: "Planned", service: str, circles: "set[tuple[str, str]]") -> str:
    """Why a unit cannot be ordered after an entry, or ''. PID 1 breaks a circle by dropping whatever job it
    likes."""
    if service in OURS or service.startswith(OUR_TEMPLATES):
        return "is a unit of persist"
    if service in (planned.unit, planned.name + ".mount"):
        return "is the unit of the entry"
    if service.endswith(".slice") and (service.startswith("system") or service == "-.slice"):
        return "has units in it that the entry waits for"
    if (
        service in BEFORE_US
        or (service == "swap.target" and planned.entry.method == "tmpfs")
        or plan.net
        and service in BEFORE_NET
    ):
        return (
            "starts before the state volume is there"
            if planned.entry.method != "tmpfs"
            else "starts before memory is mounted"
        )
    if service.endswith(".mount"):
        if any(
            [
                parent in plan.fstab and service == escape(parent) + ".mount"
                for parent in parents(planned.path)
            ]
        ):
            return "mounts the filesystem that the entry lies on"
        if any(
            [
                parent in plan.fstab and service == escape(parent) + ".mount"
                for parent in parents(planned.entry.seed_from + "/")
            ]
        ):
            return "mounts the filesystem that SeedFrom= lies on"
    return "has to be there before the entry" if (planned.path, service) in circles else ""


def _cannot_wait(
    plan: "Plan", planned: "Planned", service: str, circles: "set[tuple[str, str]]"
) -> tuple[int, str]:
    """What is wrong with a Services=: a level and a text, '' where the unit is ordered after the entry."""
    why = _goes_round(plan, planned, service, circles)
    if why:
        return (
            ERROR,
            "Services=%s %s, so it cannot wait for %s; it is not ordered. Take it out of Services=."
            % (
                service,
                why,
                planned.path,
            ),
        )
    if service in _ANYWAY and not plan.net:
        return WARNING, (
            "Services=%s waits for every entry anyway, ignoring. Take it out of Services=; "
            "with Required=boot the boot does not go on without %s." % (service, planned.path)
        )
    return 0, ""


def _order(plan: "Plan", planned: "Planned", circles: "set[tuple[str, str]]") -> None:
    entry = planned.entry
    unit = planned.unit or "persist-seed@" + planned.name + ".service"
    requirement = "Wants=" if entry.required == "no" else "Requires="
    # The mount of a bind has no fragment, but PID 1 unmounts it all the same when the machine stops, and
    # after its users.
    after = unit + " " + planned.name + ".mount" if entry.method == "bind" else unit
    text = "%s[Unit]\nSourcePath=%s\n%s%s\nAfter=%s\n" % (
        FIRST_LINE,
        specifiers(entry.file),
        requirement,
        unit,
        after,
    )
    lines: dict[str, int] = {}
    for service in dict.fromkeys(entry.services):
        level, wrong = _cannot_wait(plan, planned, service, circles)
        if not wrong:
            plan.files[service + ".d/50-persist-" + planned.name + ".conf"] = text
            continue
        lines = lines or _lines(planned)  # once, and only where something is wrong
        where = "%s:%d" % (entry.file, lines[service])
        plan.problems.append(Problem(level, where, wrong, planned.path))


def _lines(planned: "Planned") -> dict[str, int]:
    """The line of each word of Services=."""
    settings = planned.entry.settings
    return {word: line for key, value, line in settings if key == "Services" for word in words(value)}


def _circles(accepted: "dict[str, Planned]", facts: "Facts") -> set[tuple[str, str]]:
    """As rounds(): (path, unit) of each Services= that its entry waits for itself."""
    asked = [
        (p, service)
        for p in accepted.values()
        for service in p.entry.services
        if service.endswith((".mount", ".swap")) or service == "swap.target"
    ]
    if not asked:
        return set()
    from .rounds import rounds  # such a Services= is rare

    return rounds(accepted, facts, asked)


def order(plan: "Plan", accepted: "dict[str, Planned]", facts: "Facts") -> None:
    """Add the drop-ins of all units that are named to the plan, and what is wrong to its problems."""
    circles = _circles(accepted, facts)
    for planned in accepted.values():
        if planned.entry.services:
            _order(plan, planned, circles)
