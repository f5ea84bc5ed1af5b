# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrations by a real PID 1: what waits for them, what stays down, and that a steady boot starts none."""

from __future__ import annotations

import uuid

from tests.vm.checks import codes, failed_units, records, state

from .conftest import Boot
from .container import Container
from .disk import Disk
from .registry import ENABLED, named, wanted
from .tree import write

UNITS = "/usr/lib/systemd/system"
READ = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'cat /srv/data/f >/run/read.%p'\n"


def _service(name: str, unit: str = "", by: str = "multi-user.target") -> dict[str, str]:
    return {f"{UNITS}/{name}.service": f"[Unit]\n{unit}{READ}", **wanted(by, f"{name}.service")}


ONE = {
    "/usr/lib/os-release": "ID=test\nIMAGE_VERSION=1\n",
    "/usr/lib/persist.d/data.conf": "[Path]\nPath=/srv/data\nMethod=bind\n[Path]\nPath=/srv/over\n",
    "/srv/data/f": "old\n",
    "/srv/over/f": "old\n",
    **_service("reader"),
    **_service("early", "DefaultDependencies=no\nBefore=sysinit.target\n", "sysinit.target"),
    **_service("down"),
    **_service("beside"),
    f"{UNITS}/listen.socket": "[Socket]\nListenStream=/run/listen\nAccept=yes\n",
    f"{UNITS}/listen@.service": "[Service]\nExecStart=/bin/true\n",
    **wanted("sockets.target", "listen.socket"),
}
UP = """#!/bin/sh
echo "said by $PERSIST_ID"
echo "$PERSIST_ID $PERSIST_PATH $PERSIST_FROM $PERSIST_TO" >>/run/ran
[ $PERSIST_ID != bad ] || exit 7
[ $PERSIST_ID != data-2 ] || [ "$(cat /srv/data/f)" = one ] || exit 3
[ $PERSIST_ID != data-1 ] || { sleep 1; echo one >/srv/data/f; }
[ $PERSIST_ID != data-2 ] || echo two >/srv/data/f
"""
TWO = {
    "/usr/lib/os-release": "ID=test\nIMAGE_VERSION=2\n",
    "/usr/bin/up": UP,
    "/usr/lib/persist.d/up.conf": """[Migration]
Id=data-1
Path=/srv/data
Exec=/usr/bin/up 'a b'
Services=reader.service listen.socket early.service
[Migration]
Id=data-2
Path=/srv/data
Exec=/usr/bin/up
Services=reader.service early.service
[Migration]
Id=online
Path=/srv/data
Exec=/usr/bin/up
When=after-services
Services=reader.service
[Migration]
Id=alone
Path=/srv/over
Exec=/usr/bin/up
[Migration]
Id=off
Path=/srv/over
Exec=/usr/bin/up
When=after-services
Services=not-started.service
""",
}
BAD = {
    "/usr/lib/persist.d/zz-bad.conf": "[Migration]\nId=bad\nPath=/srv/over\nExec=/usr/bin/up\n"
    "Services=down.service\n"
}


def _at(one: Container, unit: str, when: str) -> int:
    return int(one.succeed(f"systemctl show -p {when}TimestampMonotonic --value {unit}"))


def _off(one: Container, files: dict[str, str]) -> None:
    one.shutdown()
    write(one.own, files)


def test_an_image_is_swapped(disk: Disk, container: Boot) -> None:
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**ENABLED, **named(name), **ONE})
    assert one.boot(devices=disk.nodes()) == "running", failed_units(one)

    _off(one, TWO)
    assert one.boot(devices=disk.nodes()) == "running", failed_units(one)
    assert one.succeed("cat /run/ran").split("\n")[:-1] == [
        "data-1 /srv/data 1 2",
        "data-2 /srv/data 2 2",
        "alone /srv/over 1 2",
        "online /srv/data 2 2",
    ]
    assert one.succeed("cat /run/read.reader /run/read.early /srv/data/f") == "two\n" * 3
    one.succeed("systemctl is-active listen.socket")
    assert "said by data-1" in one.succeed("journalctl -b -o cat -u persist-migrate@data-1.service")
    alone = _at(one, "persist-migrate@alone.service", "InactiveEnter")
    assert 0 < alone < _at(one, "basic.target", "ActiveEnter")
    assert _at(one, "reader.service", "ActiveEnter") < _at(
        one, "persist-migrate@online.service", "InactiveExit"
    )
    assert not one.succeed("journalctl -b -o cat _PID=1 -g 'ordering cycle' || :").strip()
    assert sorted(one.succeed("ls /run/persist/migrations").split()) == [
        "alone",
        "data-1",
        "data-2",
        "online",
    ]
    one.wait_until_succeeds('grep -q \'"verdict": "online"\' /run/persist/state.json')
    assert "not-started.service is not active" in records(one, "MIGRATION_BEGUN")[-1]["MESSAGE"]

    _off(one, {})
    assert one.boot(devices=disk.nodes()) == "running", failed_units(one)
    assert one.execute("cat /run/ran")[0] != 0, "none runs again"
    for id in ("data-1", "data-2", "alone", "online"):
        assert one.succeed(f"systemctl show -p ExecMainPID --value persist-migrate@{id}.service") == "0\n"
    said = one.succeed("journalctl -b -o cat -u 'persist-migrate@[a-n]*'")
    assert "data" not in said and "alone" not in said, "PID 1 says nothing of what it skips"
    assert one.succeed("cat /run/read.reader /run/read.early") == "two\n" * 2
    one.shutdown()


def test_one_that_fails_keeps_its_services_down(disk: Disk, container: Boot) -> None:
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**ENABLED, **named(name), **ONE})
    assert one.boot(devices=disk.nodes()) == "running", failed_units(one)
    _off(one, {**TWO, **BAD})
    for number in range(2):
        assert one.boot(devices=disk.nodes()) == "degraded"
        assert failed_units(one) == ["persist-migrate@bad.service"]
        assert one.execute("systemctl is-active down.service")[1] == "inactive\n"
        assert one.succeed("systemctl is-active beside.service reader.service") == "active\n" * 2
        assert one.execute("systemctl start down.service")[0] != 0, "also when somebody starts it later"
        assert ("bad" in one.execute("cat /run/ran")[1]) == (number == 0), "it is not repeated by itself"
        one.wait_until_succeeds("grep -q migration-failed /run/persist/state.json")
        found = state(one)
        assert found["verdict"] == "degraded" and "migration-failed" in codes(found)
        one.shutdown()
    one.start(devices=disk.nodes())
    one.wait_for_boot()
    one.succeed("persistctl migrate retry bad; sed -i 's/exit 7/exit 0/' /usr/bin/up")
    one.succeed("systemctl start down.service; systemctl is-active down.service")
    one.wait_until_succeeds('grep -q \'"verdict": "online"\' /run/persist/state.json')
    one.shutdown()


def test_the_first_boot_of_an_image_runs_none(disk: Disk, container: Boot) -> None:
    name = str(uuid.uuid4())
    disk.make_volume(name)
    one = container(files={**ENABLED, **named(name), **ONE, **TWO})
    assert one.boot(devices=disk.nodes()) == "running", failed_units(one)
    assert one.execute("cat /run/ran")[0] != 0
    assert sorted(one.succeed("ls /run/persist/volume/.persist/migrations").split()) == [
        "alone",
        "data-1",
        "data-2",
        "off",
        "online",
    ]
    assert one.succeed("cat /run/read.reader /run/read.early") == "old\n" * 2
    assert state(one)["verdict"] == "online"
    one.shutdown()
