# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clones of a sealed machine: persist-regenerate.service makes what they must not share before anybody uses
it, whether or not anything else of persist is asked for."""

from __future__ import annotations

import uuid

from persist.seal import again
from persist.seal.again import Again
from tests.vm.checks import failed_units, records, state

from .conftest import Boot
from .container import Container
from .disk import Disk
from .registry import ENABLED, PRESET, named, wanted

KEYS = tuple(f"/etc/ssh/ssh_host_{kind}_key" for kind in ("ecdsa", "ed25519", "rsa"))
SSH = Again(
    (*KEYS, *(f"{key}.pub" for key in KEYS)),
    ("/usr/bin/ssh-keygen", "-A"),
    "/usr/lib/persist/identity.d/openssh-server.conf:8",
)
# The images of these tests have a unit of their own for it.
NO_OTHER = {"/etc/systemd/system/persist-test-hostkeys.service": "-> /dev/null"}
# As open-iscsi's, in what matters: it waits for the network, and not for sysinit.target, which wants it.
INITIATOR = {
    "/usr/lib/systemd/system/iscsid.service": """[Unit]
DefaultDependencies=no
Wants=network-online.target remote-fs-pre.target
After=network.target network-online.target
Before=remote-fs-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/cp /etc/name /etc/name.seen
""",
    **wanted("sysinit.target", "iscsid.service"),
}
CLONE = {**NO_OTHER, **INITIATOR}


def listed(*items: Again) -> dict[str, str]:
    return {again.PATH: again.dump(list(items)).decode("ascii")}


def script(body: str) -> str:
    return f"#!/bin/sh\necho run >>/var/ran.$(basename $0)\n{body}\n"


def maker(name: str, path: str, body: str = "") -> tuple[dict[str, str], Again]:
    """A program that makes a file, and the item that asks for it."""
    program = f"/usr/local/bin/{name}"
    return {program: script(body or f"echo {name} >{path}")}, Again((path,), (program,), f"{name}.conf:1")


def ran(one: Container, name: str) -> int:
    """How often a program was run, in all boots."""
    return len(one.execute(f"cat /var/ran.{name}")[1].split())


def when(one: Container, unit: str, what: str) -> int:
    return int(one.succeed(f"systemctl show -p {what} --value {unit}"))


def skipped(one: Container) -> bool:
    shown = one.succeed("systemctl show -p ConditionResult --value persist-regenerate.service")
    return shown.strip() == "no"


def fingerprints(one: Container) -> str:
    return one.succeed(f"cat {' '.join(f'{key}.pub' for key in KEYS)}")


def no_cycle(one: Container) -> None:
    assert "cycle" not in one.succeed("journalctl --sync; journalctl -b --no-pager -q _PID=1")


def test_a_clone(container: Boot) -> None:
    """Nothing of persist is enabled: keys are there before sshd starts, and a name before its user, who does
    not wait for sysinit.target. At the next boot nothing is run."""
    files, name = maker("name", "/etc/name")
    one = container(files={**CLONE, **files, **listed(SSH, name)})
    assert one.boot() == "running", failed_units(one)
    done = when(one, "persist-regenerate.service", "ExecMainExitTimestampMonotonic")
    assert 0 < done < when(one, "sysinit.target", "ActiveEnterTimestampMonotonic")
    assert done <= when(one, "iscsid.service", "ExecMainStartTimestampMonotonic")
    assert done <= when(one, "ssh.service", "ExecMainStartTimestampMonotonic")
    assert one.succeed("systemctl is-active ssh.service").strip() == "active"
    assert one.succeed("cat /etc/name.seen") == "name\n"
    assert one.succeed("stat -c '%a %U' /etc/ssh/ssh_host_ed25519_key") == "600 root\n"
    assert state(one)["verdict"] == "off"
    no_cycle(one)
    assert {r["PERSIST_SOURCE"] for r in records(one, "REGENERATED")} == {SSH.source, name.source}
    assert one.execute(f"ls {again.PATH}")[0] != 0
    before = fingerprints(one)
    one.shutdown()
    assert one.boot() == "running", failed_units(one)
    assert skipped(one) and fingerprints(one) == before and ran(one, "name") == 1
    assert records(one, "REGENERATED") == []
    one.shutdown()


def test_without_the_service_there_are_no_keys(container: Boot) -> None:
    """What the others show is not the work of somebody else."""
    one = container(files={**CLONE, "/etc/name": ""})
    one.boot()
    assert "no hostkeys available" in one.fail("mkdir -p /run/sshd; sshd -t")
    assert one.execute("systemctl is-active ssh.service")[0] != 0
    assert one.execute(f"ls {' '.join(KEYS)}")[1] == ""


def test_a_cut_between(container: Boot) -> None:
    """The second item is at work when the power goes, and has left an empty key: the next boot makes that
    one, not the first one again, and cloud-init's key is left alone."""
    first, a = maker("first", "/etc/first")
    second, b = maker(
        "second",
        "/etc/name",
        "if [ ! -e /var/cut ]; then : >/etc/name; sync; sleep 600; fi; echo x >/etc/name",
    )
    third, c = maker("third", "/etc/third")
    there = {"/etc/third": "made by somebody else\n"}
    one = container(files={**CLONE, **first, **second, **third, **there, **listed(SSH, a, b, c)})
    one.start()
    cut = one.own / "etc/name"
    one.wait_until("the second item is at work", cut.exists)
    one.crash()
    assert cut.read_text() == "" and (one.own / "etc/first").read_text() == "first\n"
    left, wrong = again.parse((one.own / again.PATH.lstrip("/")).read_bytes())
    assert left == [b, c] and wrong == []
    (one.own / "var/cut").touch()
    (one.own / "etc/first").unlink()
    key = (one.own / "etc/ssh/ssh_host_ed25519_key").read_bytes()
    assert one.boot() == "running", failed_units(one)
    assert [ran(one, name) for name in ("first", "second", "third")] == [1, 2, 0]
    assert one.succeed("cat /etc/name.seen /etc/third") == "x\nmade by somebody else\n"
    assert one.read_file("/etc/ssh/ssh_host_ed25519_key") == key
    assert one.execute(f"ls {again.PATH} /etc/first")[1] == ""
    one.shutdown()


def test_a_key_that_a_cut_has_emptied(container: Boot) -> None:
    """As after a cut in cloud-init's key making: sshd would not start with it, nor would anybody make it."""
    files, name = maker("name", "/etc/name")
    keys = {KEYS[0]: "", f"{KEYS[0]}.pub": ""}
    one = container(files={**CLONE, **files, **keys, **listed(SSH, name)})
    assert one.boot() == "running", failed_units(one)
    assert one.succeed(f"for key in {' '.join(KEYS)}; do [ -s $key ] || echo $key; done") == ""
    one.succeed("sshd -t")
    one.shutdown()


def test_a_failure(container: Boot) -> None:
    """It is said, costs nobody else their keys, and is tried again."""
    name, a = maker("name", "/etc/name")
    bad, b = maker("bad", "/etc/bad", "[ -e /var/mended ] || { echo no luck >&2; exit 3; }; echo x >/etc/bad")
    one = container(files={**CLONE, **name, **bad, **listed(b, a, SSH)})
    assert one.boot() == "degraded"
    assert failed_units(one) == ["persist-regenerate.service"]
    assert one.succeed("systemctl is-active ssh.service iscsid.service") == "active\nactive\n"
    said = records(one, "REGENERATE_FAILED")
    assert [(r["PRIORITY"], r["PERSIST_SOURCE"]) for r in said] == [("3", "bad.conf:1")]
    assert "no luck" in said[0]["MESSAGE"]
    one.succeed("touch /var/mended")
    one.shutdown()
    assert one.boot() == "running", failed_units(one)
    assert [ran(one, name) for name in ("bad", "name")] == [2, 1]
    one.shutdown()


def test_etc_on_a_volume(disk: Disk, container: Boot) -> None:
    """A root that is read-only, and the whole system kept: what is made lands on the volume, once for all
    boots, although the image keeps its list."""
    files, name = maker("name", "/etc/name")
    volume = str(uuid.uuid4())
    disk.make_volume(volume)
    one = container(
        files={**CLONE, **files, **listed(SSH, name), **ENABLED, **PRESET, **named(volume)}, read_only=True
    )
    one.start(devices=disk.nodes())
    assert one.wait_for_boot() == "running", failed_units(one)
    assert state(one)["verdict"] == "online"
    no_cycle(one)
    before = fingerprints(one)
    assert (one.own / again.PATH.lstrip("/")).exists() and one.execute(f"ls {again.PATH}")[0] != 0
    assert not (one.own / "etc/name").exists()
    one.shutdown()
    one.start(devices=disk.nodes())
    assert one.wait_for_boot() == "running", failed_units(one)
    assert skipped(one) and fingerprints(one) == before and ran(one, "name") == 1
    assert one.succeed("cat /etc/name") == "name\n"
    one.shutdown()
