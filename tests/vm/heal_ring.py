# SPDX-License-Identifier: LGPL-2.1-or-later
"""``make test-heal-ring``: the boot to which a stale member comes back, again and again, under varying load.

    python3 -m tests.vm.heal_ring [--suite bookworm|trixie] [--times 200] [--seed N]

Once such a machine stayed degraded after the member had been brought up to date: what heals and what makes
the verdict started each other. It is one loop now, and this looks for a moment that it could still miss. The
first run that is not online in time ends all, and leaves journal, jobs and the files of /run/persist.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from . import scene
from .checks import clean_shutdown, records
from .errors import CommandFailed, MachineError
from .machine import Machine
from .progress import note
from .test_mirror import degraded_boot, devids, twice_booted, written

ONLINE_SEC = 300.0
# Where a run begins: before persist-volume.service, and before the boot's verdict.
EARLY, LATE = "agent", "basic.target"
EARLY_EVERY = 10
# Said in each run, by the initrd, the volume's service and the first verdict.
EXPECTED = ("did not see what was written last", "MEMBER_MISSING", "VERDICT_DEGRADED")
_BUSY = "while :; do :; done"
_TRACES = {
    "journal-all": "journalctl --sync; journalctl -b -o short-monotonic --no-pager",
    "jobs": "export SYSTEMD_PAGER=; systemctl list-jobs; systemctl list-units --all 'persist-*'; "
    "systemctl status 'persist-heal.*'",
    "run-persist": "cd /run/persist; ls -la . stores early; grep -s . *; btrfs fi show; btrfs fi df volume",
}


def prepared(suite: str) -> Machine:
    """A machine that is kept at two moments of the boot to which the second disk has come back."""
    machine = Machine(scene.story_image(suite), f"heal-ring-{suite}")
    try:
        twice_booted(machine)
        clean_shutdown(machine)
        two = machine.detach_disk("two")
        machine.start()
        degraded_boot(machine, "member-missing")
        written(machine, "alone")
        clean_shutdown(machine)
        machine.attach_disk(two)
        machine.start()
        machine.snapshot(EARLY, look=False)
        machine.wait_for_unit(LATE, ONLINE_SEC)
        machine.snapshot(LATE, look=False)
    except BaseException:
        machine.save_artifacts(machine.name)
        machine.close()
        raise
    return machine


@contextmanager
def load(machine: Machine, most: int, chance: random.Random) -> Iterator[str]:
    """Busy loops on the host and in the guest, and writes to the volume, as chance has it; yields which."""
    host, guest, writes = chance.randint(0, most), chance.randint(0, 2), chance.random() < 0.4
    seconds = chance.uniform(1, 12)
    for _ in range(guest):
        machine.qemu.agent.post(f"(timeout {seconds:.1f} sh -c '{_BUSY}' </dev/null >/dev/null 2>&1 &)")
    if writes:
        machine.qemu.agent.post(
            f"(timeout {seconds:.1f} sh -c 'while :; do head -c 4M /dev/urandom >/home/load; sync; done' "
            "</dev/null >/dev/null 2>&1 &)"
        )
    loops = [
        subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "nice", "-n", "5", "sh", "-c", _BUSY])
        for _ in range(host)
    ]
    try:
        yield f"host {host}, guest {guest}{', writes' if writes else ''}, {seconds:.0f} s"
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def verdict(machine: Machine) -> str:
    """The verdict of now, "" before there is one."""
    text = machine.execute("cat /run/persist/state.json 2>/dev/null")[1]
    return str(json.loads(text)["verdict"]) if text.strip() else ""


def once(machine: Machine, moment: str, most: int, chance: random.Random) -> tuple[float, str]:
    """The boot from this moment on: seconds until it was online, and the load. Raises CommandFailed."""
    machine.restore(moment)
    begin = time.monotonic()
    with load(machine, most, chance) as under:
        time.sleep(chance.uniform(0, 1))
        machine.wait_until(
            f"the verdict is online ({under})", lambda: verdict(machine) == "online", ONLINE_SEC
        )
        seconds = time.monotonic() - begin
    if len(devids(machine)) != 2 or not records(machine, "HEAL_DONE"):
        raise CommandFailed(f"online, and not healed ({under})")
    return seconds, under


def traces(machine: Machine) -> None:
    """All that may tell why."""
    target = machine.save_artifacts(machine.name)
    for name, command in _TRACES.items():
        (target / f"{name}.txt").write_text(machine.run(command).text(), encoding="utf-8")


def distribution(took: list[float]) -> str:
    """How many, the slowest, and how the rest lies below it."""
    took = sorted(took)
    parts = ", ".join(
        f"{share} % in {took[min(len(took) - 1, len(took) * share // 100)]:.1f} s"
        for share in (10, 50, 90, 99)
    )
    return f"{len(took)} times online: the first in {took[0]:.1f} s, {parts}, the slowest in {took[-1]:.1f} s"


def turn(machine: Machine, times: int, seed: int, busy: int) -> bool:
    """Go back so many times; whether each was online in time."""
    took: list[float] = []
    try:
        for number in range(times):
            moment = LATE if number % EARLY_EVERY else EARLY
            seconds, under = once(machine, moment, busy, random.Random(f"{seed} {number}"))
            took.append(seconds)
            note(f"run {number}, from {moment}: online in {seconds:.1f} s ({under})")
    except (MachineError, CommandFailed) as error:
        print(f"run {len(took)} of seed {seed}: {error}", file=sys.stderr)
        traces(machine)
    finally:
        if took:
            print(distribution(took), flush=True)
    return len(took) == times


def main() -> int:
    """Exit status 0 only if every run was online in time, and said nothing but what is expected."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.vm.heal_ring",
        description="go back to the boot with a stale member, again and again",
    )
    parser.add_argument("--suite", default="bookworm", choices=("bookworm", "trixie"))
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="another seed is another load")
    parser.add_argument("--busy", type=int, default=2, help="busy loops on the host, at most")
    options = parser.parse_args()
    with prepared(options.suite) as machine:
        machine.expect(*EXPECTED)
        return 0 if turn(machine, options.times, options.seed, options.busy) else 1


if __name__ == "__main__":
    sys.exit(main())
