# SPDX-License-Identifier: LGPL-2.1-or-later
"""A read-only root and no disk: the whole system in memory, by the units that the generator wrote."""

from __future__ import annotations

from tests.vm import scene
from tests.vm.checks import entries, failed_units, records, state, volatile_notices

from .conftest import Boot
from .registry import ENABLED, NOTES, ODD, PRESET


def test_no_disk(container: Boot) -> None:
    """Memory, and loud: on the console, in the journal, before and after login; the target is not reached."""
    one = container(files={**ENABLED, **PRESET, **NOTES, **ODD}, read_only=True)
    assert one.boot() == "running", failed_units(one)
    found = state(one)
    assert (found["verdict"], found["volume"]["kind"]) == ("volatile", "tmpfs")
    assert entries(found)["/etc"] == "early", "in memory, and there before PID 1 all the same"
    assert set(entries(found).values()) <= {"early", "mounted", "image", "tmpfs", "elsewhere"}
    assert records(one, "VOLUME_MISSING")
    volatile_notices(one)
    assert (
        one.succeed("cat /var/lib/demo-notes/notes.txt; stat -c %a /var/lib/demo-notes").split()[-1] == "750"
    )
    for path in scene.ODD:
        one.succeed(f"echo odd >'{path}/file'")
    assert len(one.succeed("ls /var/log/journal").split()) == 1
    assert "ordering cycle" not in one.succeed("journalctl -b --no-pager -q")
    one.shutdown()


# An order that cannot be, and one that can; an owner that is made in this very boot.
WRITTEN = {
    "/usr/lib/persist.d/written.conf": """[Path]
Path=/srv/circle
Services=sysinit.target local-fs.target persist-volume.service
[Path]
Path=/srv/served
Services=cron.service
User=made-late
Group=made-late
""",
    "/usr/lib/sysusers.d/made-late.conf": "u made-late -\n",
    "/srv/circle/f": "",
    "/srv/served/f": "",
}


def test_orders_and_owners(container: Boot) -> None:
    """Services= that names what waits for us is no cycle for PID 1 and is said; User= may come from
    sysusers.d."""
    one = container(files={**ENABLED, **PRESET, **WRITTEN}, read_only=True)
    assert one.boot() == "running", failed_units(one)
    found = entries(state(one))
    assert found["/srv/circle"] == found["/srv/served"] == "mounted"
    assert "cycle" not in one.succeed("journalctl -b --no-pager -q _PID=1")
    status, said = one.execute("persistctl verify")
    assert status == 1
    for unit in ("sysinit.target", "local-fs.target", "persist-volume.service"):
        assert f"/usr/lib/persist.d/written.conf:3: Services={unit} " in said, said
    shown = one.succeed("systemctl show -p Wants -p After cron.service").splitlines()
    assert all("srv-served.mount" in line for line in shown), shown
    order = one.succeed(
        "systemctl show -p ActiveEnterTimestampMonotonic --value srv-served.mount cron.service"
    )
    mount, service = map(int, order.split())
    assert 0 < mount < service
    assert one.succeed("stat -c %U:%G /srv/served").strip() == "made-late:made-late"
    one.shutdown()
