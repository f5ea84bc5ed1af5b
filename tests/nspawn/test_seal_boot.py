# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots in which a machine seals itself: what the disk says afterwards, and whether the next boot is one as
ever. There is no udev and no disk here: tests/vm/test_seal_boot.py has them."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest

from persist.boot.seal.request import Request, digits, serialise
from tests.vm.checks import failed_units, records

from .conftest import Boot
from .container import CREDENTIALS, Container

ID = "0123456789abcdef0123456789abcdef"
UUID = Path("/sys/class/dmi/id/product_uuid")  # of this machine, which a container sees as its own
REBOOT = 133  # of systemd-nspawn, when the container has rebooted
NODE = """[Unit]
Description=Makes itself a name when it is first started
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'test -e /var/lib/node-id || cat /proc/sys/kernel/random/uuid >/var/lib/node-id'
[Install]
WantedBy=multi-user.target
"""
PROTOTYPE = {
    "/etc/machine-id": f"{ID}\n",
    "/var/lib/systemd/random-seed": "seed",
    "/var/lib/dhcp/dhclient.eth0.leases": "lease",
    "/root/.bash_history": "passwd\n",
    "/etc/systemd/system/node.service": NODE,
    "/etc/systemd/system/multi-user.target.wants/node.service": "-> ../node.service",
    # Nobody reads this console.
    "/etc/persist/persist.conf": "[Seal]\nTimeoutSec=3\n",
}
GONE = ("var/lib/systemd/random-seed", "var/lib/dhcp/dhclient.eth0.leases", "root/.bash_history")
ASKED = f"persist.seal={ID}:r-1"
OUTSIDE = {f"{CREDENTIALS}/persist.seal": f"{ID}:r-1"}


def there(one: Container, name: str) -> bool:
    """Whether something is in the container's root that was not in its tree, or was changed there."""
    try:
        found = (one.own / name.lstrip("/")).lstat()
    except FileNotFoundError:
        return False
    return not (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0)  # a whiteout


def text(one: Container, name: str) -> str:
    return (one.own / name.lstrip("/")).read_text(encoding="utf-8") if there(one, name) else ""


def report(one: Container) -> dict[str, object]:
    found: dict[str, object] = json.loads(text(one, "/var/lib/persist/seal.json"))
    return found


def script(body: str) -> dict[str, str]:
    """The credentials of a request from outside with a script."""
    return {**OUTSIDE, f"{CREDENTIALS}/persist.operator-script": f"#!/bin/sh\n{body}\n"}


def seal(one: Container, command_line: str = "") -> float:
    """One boot to its end, which has to be a power-off; returns how long it took."""
    begun = time.monotonic()
    one.start(command_line)
    assert one.wait_for_off() == 0, one.tail()
    return time.monotonic() - begun


def not_sealed(one: Container, why: str) -> None:
    """The console says so, the next boot is told why, and nothing says "sealed"."""
    assert "This machine is NOT sealed" in one.console_text(), one.tail()
    assert why in one.console_text(), one.tail()
    assert not there(one, "/var/lib/persist/seal.json")
    assert why in text(one, "/var/lib/persist/seal-failed")


def test_a_local_request(container: Boot) -> None:
    """Wiped, told, switched off, and no service has ever run; the next boot is an ordinary one of a machine
    that has yet to become somebody."""
    one = container(files={**PROTOTYPE, "/var/lib/node-id": "the prototype's\n"})
    assert one.boot() == "running", failed_units(one)
    one.succeed("persistctl seal --dry-run")
    assert "Nobody is there to type" in one.fail("persistctl seal 2>&1")
    assert "No state volume was found" in one.fail("persistctl seal --yes --include-volume 2>&1")
    assert not there(one, "/etc/persist/seal.request")
    one.succeed("rm /var/lib/node-id; systemd-run persistctl seal --yes")
    assert one.wait_for_off() == REBOOT, one.tail()
    seal(one)
    assert "This machine is sealed." in one.console_text(), one.tail()
    assert report(one)["sealed"] is True
    assert text(one, "/etc/persist/seal.done") == f"{report(one)['request']}\n"
    assert not there(one, "/etc/persist/seal.request")
    assert text(one, "/etc/machine-id") == ""
    assert [name for name in (*GONE, "var/lib/node-id") if there(one, name)] == []
    assert ID not in (one.own / "var/lib/persist/seal.json").read_text(encoding="utf-8")
    assert one.boot() == "running", failed_units(one)
    assert one.succeed("cat /etc/machine-id").strip() not in ("", ID)
    assert len(one.succeed("cat /var/lib/node-id").strip()) == 36
    assert records(one, "SEAL_REFUSED") == []
    one.shutdown()


def test_what_it_does_when_it_is_sealed(container: Boot) -> None:
    """It may start again at once, as a machine that has yet to become somebody; where it is not sealed it is
    switched off."""
    uuid = digits(UUID.read_text(encoding="ascii")) if UUID.exists() else ""
    asked = Request("again", machine_id=ID, uuid=uuid, time=int(time.time()), then="reboot")
    one = container(files={**PROTOTYPE, "/etc/persist/seal.request": serialise(asked)})
    one.start()
    assert one.wait_for_off() == REBOOT, one.tail()
    assert report(one)["request"] == "again"
    broken = {
        "/etc/fstab": "none /srv nosuchfs defaults 0 0\n",
        "/etc/persist/seal.request": serialise(asked),
    }
    two = container(files={**PROTOTYPE, **broken})
    seal(two)
    not_sealed(two, "srv.mount failed")


def test_asked_from_outside(container: Boot) -> None:
    """With a script, whose output is in the report; the same ID at the next boot is ordinary."""
    asked = script(f"echo hello from {ID}; id -u; touch /srv/made; pwd")
    one = container(files={**PROTOTYPE, **asked})
    seal(one)
    assert "This machine is sealed." in one.console_text(), one.tail()
    said = report(one)
    assert said["request"] == "r-1"
    assert said["operator_script"] == {"output": "hello from <machine-id>\n0\n/"}
    assert there(one, "/srv/made") and not there(one, "/var/lib/node-id")
    assert one.boot() == "running", failed_units(one)
    assert there(one, "/var/lib/node-id")
    assert text(one, "/etc/persist/seal.done") == "r-1\n"
    one.shutdown()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo before; exit 3", "The operator script failed: exit status 3."),
        ("systemctl reboot; systemctl kexec; exit 4", "The operator script failed: exit status 4."),
        ("systemctl poweroff; sleep 600", "persist-operator-script.service"),
        ("kill -9 -1; sleep 600", "persist-operator-script.service failed (signal)."),
        ("sleep 600", "persist-operator-script.service failed (timeout)."),
        ("echo made >/etc/ssh/ssh_host_rsa_key", "is there again, after it was wiped"),
    ],
    ids=["fails", "reboots", "powers-off", "kills-all", "hangs", "brings-a-key-back"],
)
def test_a_script_that(container: Boot, body: str, why: str) -> None:
    """Whatever a script does, the machine is switched off, not said to be sealed, and no service has run."""
    one = container(files={**PROTOTYPE, **script(body)})
    seal(one)
    not_sealed(one, why)
    assert not there(one, "/var/lib/node-id") and not there(one, GONE[0])


def test_a_script_that_leaves_something(container: Boot) -> None:
    """What it has started ends with it, and not after all was looked at."""
    loop = "while :; do echo made >/etc/ssh/ssh_host_rsa_key; sleep 0.1; done"
    one = container(files={**PROTOTYPE, **script(f"setsid sh -c '{loop}' & sleep 0.5; exit 0")})
    seal(one)
    not_sealed(one, "ssh_host_rsa_key' is there again")
    two = container(files={**PROTOTYPE, **script("sleep 600 & touch /srv/made")})
    seal(two)
    assert report(two)["sealed"] is True and there(two, "/srv/made")


def test_a_script_that_is_not_run(container: Boot) -> None:
    """The host hands one to a machine that was asked inside, or that does not believe its host: that is said,
    and the machine is sealed all the same."""
    handed = {f"{CREDENTIALS}/persist.operator-script": "#!/bin/sh\ntouch /srv/made\n"}
    uuid = digits(UUID.read_text(encoding="ascii")) if UUID.exists() else ""
    asked = Request("inside", machine_id=ID, uuid=uuid, time=int(time.time()))
    one = container(files={**PROTOTYPE, **handed, "/etc/persist/seal.request": serialise(asked)})
    seal(one)
    assert "The operator script is not run: the request was made in the machine" in one.console_text()
    cvm = {"usr/bin/systemd-detect-virt": '#!/bin/sh\n[ "$*" = "--quiet --cvm" ]\n'}
    two = container(files={**PROTOTYPE, **handed, **cvm})
    seal(two, ASKED)
    assert "The operator script is not run: the host of a confidential virtual" in two.console_text()
    for each, name in ((one, "inside"), (two, "r-1")):
        assert "This machine is sealed." in each.console_text(), each.tail()
        said = report(each)
        assert (said["sealed"], said["request"]) == (True, name) and "operator_script" not in said
        assert not there(each, "/srv/made")


def test_requests_that_are_refused(container: Boot) -> None:
    """An ordinary boot, and a local request is gone, with a word."""
    other = Request("r-2", machine_id="f" * 31 + "e", time=int(time.time()))
    one = container(files={**PROTOTYPE, "/etc/persist/seal.request": serialise(other)})
    assert one.boot() == "running", failed_units(one)
    said = {r["PERSIST_REASON"]: r["MESSAGE"] for r in records(one, "SEAL_REFUSED")}
    assert set(said) == {"another-machine", "seal-refused"}, "by who took it away, and by the verdict"
    assert "it was made on a machine with another machine-id" in said["seal-refused"]
    assert "another machine-id" in one.succeed("cat /run/motd.d/persist"), "although nothing is kept here"
    assert not there(one, "/etc/persist/seal.request") and there(one, GONE[0])
    assert not there(one, "/etc/persist/seal.done")
    one.shutdown()


def test_a_service_of_somebody_elses(container: Boot) -> None:
    """What local-fs.target pulls in is not started; what runs all the same ends it, and nothing is wiped."""
    stranger = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/usr/bin/sleep 600\n"
    wanted = {
        "/etc/systemd/system/stranger.service": stranger,
        "/etc/systemd/system/local-fs.target.wants/stranger.service": "-> ../stranger.service",
    }
    one = container(files={**PROTOTYPE, **wanted})
    seal(one, ASKED)
    assert report(one)["request"] == "r-1", one.tail()
    # Let through by a drop-in of somebody's own, and yet no part of a seal boot.
    through = {"/etc/systemd/system/stranger.service.d/50-persist-seal.conf": ""}
    two = container(files={**PROTOTYPE, **wanted, **through})
    seal(two, ASKED)
    not_sealed(two, "stranger.service")
    assert there(two, GONE[0]) and text(two, "/etc/machine-id") == f"{ID}\n"
    assert text(two, "/etc/persist/seal.done") == "r-1\n"


def test_a_missing_disk(container: Boot) -> None:
    """No shell, no wipe of half of the disks, and the line of fstab is named; one that may be missing ends it
    only where it may hold what is to be wiped."""
    line = "/dev/missing {} ext4 {} 0 0\n"
    one = container(files={**PROTOTYPE, "/etc/fstab": "none /srv nosuchfs defaults 0 0\n"})
    seal(one, ASKED)
    not_sealed(one, "srv.mount failed")
    assert there(one, GONE[0]) and not there(one, "/var/lib/node-id")
    two = container(files={**PROTOTYPE, "/etc/fstab": line.format("/var/log", "nofail")})
    seal(two, ASKED)
    not_sealed(two, "'/var/log' (/dev/missing, /etc/fstab:1) is not mounted")
    assert there(two, GONE[0])
    three = container(files={**PROTOTYPE, "/etc/fstab": line.format("/srv", "noauto")})
    seal(three, ASKED)
    assert report(three)["sealed"] is True
    needed = {
        "/etc/systemd/system/srv.mount": "[Unit]\nDefaultDependencies=no\n[Mount]\nWhat=/dev/x\nWhere=/srv\n",
        "/etc/systemd/system/local-fs.target.requires/srv.mount": "-> ../srv.mount",
    }
    four = container(files={**PROTOTYPE, **needed})  # no unit fails, only the jobs of those that need it
    seal(four, ASKED)
    not_sealed(four, "'/srv' (/dev/x, srv.mount) is not mounted.")
    assert "assertion" not in four.console_text(), four.tail()


def test_a_cut_before_the_wipe(container: Boot) -> None:
    """The request is used up: the next boot is an ordinary one, and nothing was wiped."""
    slow = {"/etc/systemd/system/persist-seal.service.d/slow.conf": "[Service]\nExecStartPre=sleep 600\n"}
    one = container(files={**PROTOTYPE, **slow})
    one.start(ASKED)
    one.wait_until("the request is used up", (one.own / "etc/persist/seal.done").exists)
    time.sleep(0.5)
    one.crash()
    assert one.boot(ASKED) == "running", failed_units(one)
    assert there(one, GONE[0]) and there(one, "/var/lib/node-id")
    assert not there(one, "/var/lib/persist/seal.json")
    [said] = records(one, "SEAL_BEGUN")
    assert "(ID r-1), and is not: It was cut" in said["MESSAGE"]
    one.succeed("sed -i 's/r-1/r-1 kept/' /etc/persist/seal.done")
    one.shutdown()
    assert one.boot(ASKED) == "running", failed_units(one)
    assert records(one, "SEAL_BEGUN") == [] and len(records(one, "SEAL_REFUSED")) == 1
    one.shutdown()


def test_two_requests_that_do_not_agree(container: Boot) -> None:
    """Neither is honoured, nor is the other one when the local one has been taken away. By then it is over
    with: what is asked anew is honoured, although it comes back."""
    local = Request("r-2", machine_id=ID, time=int(time.time()))
    one = container(files={**PROTOTYPE, "/etc/persist/seal.request": serialise(local)})
    assert one.boot(ASKED) == "running", failed_units(one)
    one.shutdown()
    assert one.boot(ASKED) == "running", failed_units(one)
    assert text(one, "/etc/persist/seal.done") == "r-2 refused\nr-1 refused\n"
    assert there(one, GONE[0]) and not there(one, "/etc/persist/seal.request")
    one.succeed("rm /var/lib/node-id; systemd-run persistctl seal --yes")
    assert one.wait_for_off() == REBOOT, one.tail()
    seal(one, ASKED)
    assert report(one)["sealed"] is True and report(one)["request"] not in ("r-1", "r-2")
    assert not there(one, GONE[0]) and not there(one, "/var/lib/node-id")
