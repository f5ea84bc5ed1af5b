# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is heard when a machine is asked to seal itself: the table of docs/seal-boot.md, row by row."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from persist.boot import facts, paths
from persist.boot.seal import look
from persist.boot.seal.decide import NONE, REFUSED, SEAL, Answer, decide, other_boot
from persist.boot.seal.look import Seen
from persist.boot.seal.request import (
    COMMAND_LINE,
    CREDENTIAL,
    LOCAL,
    Request,
    as_dict,
    digits,
    parse,
    parse_words,
    serialise,
)

ID = "0123456789abcdef0123456789abcdef"
UUID = "c0ffee00c0ffee00c0ffee00c0ffee00"
DASHED = "C0FFEE00-C0FF-EE00-C0FF-EE00C0FFEE00"
OTHER = "f" * 31 + "0"
NOW = 1_800_000_000.0


def seen(**changes: object) -> Seen:
    found = Seen()
    found.machine_id, found.uuid, found.now = ID, UUID, NOW
    for name, value in changes.items():
        assert name in vars(found)
        found.__dict__[name] = value
    return found


def local(**changes: object) -> bytes:
    fields = {"id": "one", "machine_id": ID, "uuid": UUID, "time": int(NOW) - 60, **changes}
    return json.dumps(fields).encode()


def word(machine: str = ID, name: str = "one") -> str:
    return f"root=/dev/vda1 persist.seal={machine}:{name} quiet"


def refused(answer: Answer, code: str) -> str:
    assert (answer.kind, answer.code) == (REFUSED, code), answer.sentence
    assert answer.sentence.startswith("Not sealing, though ") and answer.sentence.endswith(".")
    assert answer.hint.endswith(".")
    return answer.sentence


def test_nobody_asks() -> None:
    assert decide(seen()).kind == NONE
    assert decide(seen(cmdline="quiet persist.sealed=1 persist.seal-x")).kind == NONE
    assert decide(seen(cmdline="single persist=off", update="/system-update", units="wrong")).kind == NONE


@pytest.mark.parametrize("machine", [ID, ID.upper(), UUID, DASHED])
@pytest.mark.parametrize("source", [COMMAND_LINE, CREDENTIAL])
def test_from_outside(machine: str, source: str) -> None:
    words = f"{machine}:run-1_a.b"
    answer = decide(
        seen(cmdline=f"persist.seal={words}")
        if source == COMMAND_LINE
        else seen(credential=f"{words}\n".encode())
    )
    assert (answer.kind, answer.source, answer.sentence) == (SEAL, source, "")
    request = answer.request
    assert request == Request("run-1_a.b", source, machine=digits(machine))
    assert request.then == "poweroff" and request.keep == () and not request.include_volume
    assert answer.requests == (request,)


def test_local() -> None:
    answer = decide(seen(local=local(keep=["log"], then="reboot", include_volume=True)))
    assert answer.kind == SEAL and answer.source == LOCAL and answer.request is not None
    assert (answer.request.keep, answer.request.then, answer.request.include_volume) == (
        ("log",),
        "reboot",
        True,
    )


def test_quoted_on_the_command_line() -> None:
    assert decide(seen(cmdline=f'"persist.seal={ID}:one"')).kind == SEAL


@pytest.mark.parametrize("fact", [{"in_initrd": True}, {"container": "docker"}, {"user_scope": True}])
def test_where_nothing_is_sealed(fact: dict[str, object]) -> None:
    assert decide(seen(cmdline=word(), **fact)).kind == NONE
    assert decide(seen(begun=b"{}", **fact)).kind == NONE


def test_a_boot_that_has_begun_goes_on() -> None:
    """The request is used up: its ID is in seal.done, the local file is gone, the clock may be set."""
    request = Request("one", CREDENTIAL, machine=UUID, time=5, keep=("log",), then="halt")
    begun = serialise(request).encode()
    answer = decide(seen(begun=begun, done={"one"}, ordinary=True, cmdline=word(OTHER, "two") + " single"))
    assert (answer.kind, answer.request, answer.source) == (SEAL, request, CREDENTIAL)
    torn = decide(seen(begun=b""))
    assert (torn.kind, torn.request) == (SEAL, None) and torn.sentence == "/run/persist/seal is not JSON."


def test_an_ordinary_boot_stays_one() -> None:
    """A daemon-reload between asking and reboot must not mask sysinit.target of a machine that runs."""
    assert decide(seen(ordinary=True, local=local())).kind == NONE
    assert decide(seen(ordinary=True, cmdline=word() + " single")).kind == NONE


@pytest.mark.parametrize(
    "other",
    [
        "systemd.unit=rescue.target",
        "--unit=rescue.target",
        *("single", "-s", "s", "S", "1", "2", "3", "4", "5", "rescue", "emergency", "-b"),
        "systemd.run=/bin/true",
        "systemd.mask=cron.service",
        "systemd.wants=ssh.service",
    ],
)
def test_another_boot_is_asked_for(other: str) -> None:
    assert other_boot(f"quiet {other}") == other
    assert f"'{other}'" in refused(decide(seen(cmdline=f"{word()} {other}")), "another-boot")
    refused(decide(seen(cmdline=other, local=local())), "another-boot")
    refused(decide(seen(cmdline=other, local=b"nonsense")), "another-boot")


@pytest.mark.parametrize(
    "other", ["rd.systemd.unit=x.target", "6", "singles", "rd.emergency", "systemd.show_status=1"]
)
def test_words_that_leave_the_target_alone(other: str) -> None:
    assert decide(seen(cmdline=f"{word()} {other}")).kind == SEAL


def test_another_boot_is_asked_for_where_no_generator_looks(tmp_path: Path) -> None:
    """PID 1 takes the words of that variable as those of the command line."""
    known = machine(tmp_path)
    assert look.look(known, {}).efi == ""
    at = tmp_path / look.EFI[1:]
    at.parent.mkdir(parents=True)
    at.write_bytes(b"\7\0\0\0" + "quiet systemd.unit=rescue.target\0".encode("utf-16-le"))
    found = look.look(known, {})
    assert found.efi == "quiet systemd.unit=rescue.target"
    found.cmdline = word()
    assert "in the EFI variable SystemdOptions" in refused(decide(found), "another-boot")
    at.write_bytes(b"\7")
    assert look.look(known, {}).efi == ""


def test_switched_off() -> None:
    refused(decide(seen(cmdline="persist=off", local=local())), "persist-off")
    assert decide(seen(cmdline="persist=ro", local=local())).kind == SEAL


def test_an_update_of_the_system() -> None:
    assert "/system-update is there" in refused(
        decide(seen(update="/system-update", local=local())), "system-update"
    )


def test_units_that_are_not_as_they_should_be() -> None:
    wrong = "persist-seal.target is masked in /etc/systemd/system"
    assert wrong in refused(decide(seen(units=wrong, credential=f"{ID}:one".encode())), "units")


@pytest.mark.parametrize("machine", [OTHER, "0" * 32, "F" * 32])
def test_another_machine(machine: str) -> None:
    refused(decide(seen(cmdline=word(machine))), "another-machine")
    refused(decide(seen(credential=f"{machine}:one".encode())), "another-machine")
    # Where the machine itself is called nothing.
    refused(decide(seen(cmdline=word(machine), machine_id="", uuid="")), "another-machine")


@pytest.mark.parametrize("change", [{"machine_id": OTHER}, {"uuid": OTHER}, {"uuid": ""}, {"machine_id": ""}])
def test_a_clone_of_the_machine_that_was_asked(change: dict[str, str]) -> None:
    refused(decide(seen(local=local(**change))), "another-machine")
    refused(decide(seen(local=local(), **change)), "another-machine")


def test_a_machine_without_a_name() -> None:
    refused(decide(seen(local=local(machine_id="", uuid=""), machine_id="", uuid="")), "another-machine")
    assert decide(seen(local=local(uuid=""), uuid="")).kind == SEAL


@pytest.mark.parametrize(("age", "kind"), [(3600, SEAL), (3601, REFUSED), (-86400 * 365, SEAL), (0, SEAL)])
def test_a_local_request_gets_old(age: int, kind: str) -> None:
    assert decide(seen(local=local(time=int(NOW) - age))).kind == kind
    assert decide(seen(cmdline=word(), now=NOW * 2)).kind == SEAL, "others carry no time"


def test_honoured_once() -> None:
    for asked in (
        seen(local=local(), done={"", "one"}),
        seen(cmdline=word(), done={"one"}),
        seen(credential=f"{ID}:one".encode(), done={"zero", "one"}),
    ):
        assert "it was honoured" in refused(decide(asked), "done")
    assert decide(seen(cmdline=word(), done={"", "on", "one1"})).kind == SEAL
    refused(decide(seen(cmdline=word(), done_wrong="is not root's own")), "done-unreadable")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ID,
        f"{ID}:",
        f"{ID}:" + "x" * 65,
        f"{ID}:a b",
        f"{ID}:ü",
        f"{ID[1:]}:one",
        f"{ID[1:]}g:one",
        ":one",
        f"{ID}:a/b",
    ],
)
def test_malformed_words(text: str) -> None:
    refused(decide(seen(credential=text.encode())), "malformed")
    if " " not in text:
        refused(decide(seen(cmdline=f"persist.seal={text}")), "malformed")
    with pytest.raises(ValueError, match="is not MACHINE:ID|has a"):
        parse_words(text, CREDENTIAL)


def test_more_malformed_words() -> None:
    refused(decide(seen(credential=f"{ID}:one".encode() + b"\xff")), "malformed")
    refused(decide(seen(cmdline="persist.seal")), "malformed")
    assert "2 times" in refused(decide(seen(cmdline=word() + " " + word())), "malformed")
    assert decide(seen(cmdline=word(name="x" * 64))).kind == SEAL


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        b"null",
        b"{}",
        local(id=""),
        local(id=7),
        local(id="a b"),
        local(time=None),
        local(time=True),
        local(time=1.5),
        local(keep="log"),
        local(keep=[1]),
        local(then="kexec"),
        local(include_volume="yes"),
        local(machine_id=None),
    ],
)
def test_malformed_files(data: bytes) -> None:
    refused(decide(seen(local=data)), "malformed")


def test_a_file_that_is_not_believed() -> None:
    answer = decide(seen(local=local(), local_wrong="is not root's own"))
    assert "it is not root's own" in refused(answer, "malformed") and answer.request is None


def test_a_local_file_cannot_say_that_it_comes_from_outside() -> None:
    """The operator's script of a host is run for its own requests alone."""
    assert parse(local(source=CREDENTIAL, machine=OTHER)) == parse(local())
    assert parse(local(source=CREDENTIAL), begun=True).source == CREDENTIAL
    assert parse(local(source="elsewhere"), begun=True).source == LOCAL


def test_two_that_do_not_agree() -> None:
    answer = decide(seen(local=local(), cmdline=word(name="two")))
    sentence = refused(answer, "two")
    assert "ID one" in sentence and "ID two" in sentence
    assert [r.id for r in answer.requests] == ["one", "two"], "none of them counts at a later boot"
    assert answer.hint.startswith("None of them counts from now on.")


def test_two_from_outside_that_do_not_agree() -> None:
    """Nothing is noted of them: who takes one away has said which one is meant, and is told so."""
    answer = decide(seen(credential=f"{ID}:x".encode(), cmdline=word()))
    refused(answer, "two")
    assert answer.hint.startswith("Take one of them away: the next boot then honours the other")
    assert decide(seen(credential=f"{ID}:x".encode())).kind == decide(seen(cmdline=word())).kind == SEAL


def test_one_that_was_honoured_is_not_in_the_way() -> None:
    """It comes back at each boot, and was seen to. One that is refused for another reason is in the way."""
    stale = word(name="two")
    answer = decide(seen(local=local(), cmdline=stale, done={"two"}))
    assert (answer.kind, answer.source, answer.request and answer.request.id) == (SEAL, LOCAL, "one")
    answer = decide(seen(credential=f"{ID}:new".encode(), cmdline=stale, local=local(), done={"one", "two"}))
    assert (answer.kind, answer.source, answer.request and answer.request.id) == (SEAL, CREDENTIAL, "new")
    of_the_prototype = word(OTHER, "two")
    assert decide(seen(local=local(), cmdline=of_the_prototype, done={"two"})).kind == SEAL
    refused(decide(seen(local=local(), cmdline=of_the_prototype, done={"three"})), "another-machine")
    refused(decide(seen(local=local(), cmdline=stale + " single", done={"two"})), "another-boot")
    refused(decide(seen(local=local(time=1), cmdline=stale, done={"two"})), "too-old")
    refused(decide(seen(local=local(), cmdline=stale, done={"one", "two"})), "done")
    twice = f"{stale} {word(name='three')}"
    refused(decide(seen(local=local(), cmdline=twice, done={"two", "three"})), "malformed")
    nobody_knows = {"done": {"two"}, "done_wrong": "is not root's own"}
    refused(decide(seen(local=local(), cmdline=stale, **nobody_knows)), "done-unreadable")


def test_two_that_agree() -> None:
    answer = decide(seen(credential=f"{ID}:one".encode(), cmdline=word(UUID)))
    assert (answer.kind, answer.source) == (SEAL, COMMAND_LINE)
    assert decide(seen(credential=f"{ID}:one".encode(), local=local())).source == CREDENTIAL


def test_one_that_is_refused_is_enough() -> None:
    refused(decide(seen(local=local(), credential=f"{OTHER}:two".encode())), "another-machine")
    refused(decide(seen(local=local(), cmdline="persist.seal=nonsense")), "malformed")


def test_a_confidential_machine() -> None:
    refused(decide(seen(credential=f"{ID}:one".encode(), confidential=True)), "confidential")
    assert decide(seen(local=local(), confidential=True)).kind == SEAL


def test_before_pid_1_the_id_may_not_be_there_yet() -> None:
    """PID 1 makes it, or takes it from the command line or the firmware; what the stage cannot know refuses
    nothing there."""
    assert decide(seen(before_pid1=True, machine_id="", cmdline=word(OTHER))).kind == SEAL
    assert decide(seen(before_pid1=True, machine_id="", local=local())).kind == SEAL
    refused(decide(seen(before_pid1=True, machine_id="", local=local(uuid=OTHER))), "another-machine")
    refused(decide(seen(before_pid1=True, cmdline=word(OTHER))), "another-machine")


def test_round_trip() -> None:
    request = Request("a.b-c", LOCAL, machine_id=ID, uuid=UUID, time=7, keep=("log", "user"), then="halt")
    assert parse(serialise(request).encode()) == request
    assert as_dict(request)["keep"] == ["log", "user"] and "a.b-c" in repr(request)
    assert request != Request("a.b-c") and request != "a.b-c"


# -- the facts


def machine(root: Path) -> facts.Facts:
    for name, text in (
        ("etc/machine-id", ID + "\n"),
        ("sys/class/dmi/id/product_uuid", DASHED + "\n"),
        ("proc/cmdline", "quiet\n"),
    ):
        at = root / name
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text)
    units = root / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in look.UNITS:
        (units / unit).write_text("[Unit]\n")
    (root / "etc/persist").mkdir()
    return facts.gather(str(root), {})


def test_what_is_looked_at(tmp_path: Path) -> None:
    known = machine(tmp_path)
    found = look.look(known, {})
    assert (found.machine_id, found.uuid, found.units, found.update) == (ID, UUID, "", "")
    assert (found.begun, found.local, found.credential, found.done_wrong) == (None, None, None, "")
    assert abs(found.now - os.stat(tmp_path / "etc/machine-id").st_mtime) < 3600

    (tmp_path / "run/persist").mkdir(parents=True)
    (tmp_path / "run/credentials").mkdir()
    (tmp_path / "run/credentials/persist.seal").write_text("words")
    (tmp_path / "run/persist/ordinary").touch()
    (tmp_path / "run/persist/seal").write_text("{}")
    (tmp_path / "etc/persist/seal.request").write_bytes(local())
    (tmp_path / "etc/persist/seal.done").write_text("a\nb\n")
    (tmp_path / "system-update").symlink_to("/nowhere")
    found = look.look(
        known, {"CREDENTIALS_DIRECTORY": "/run/credentials", "SYSTEMD_CONFIDENTIAL_VIRTUALIZATION": "sev"}
    )
    assert (found.begun, found.local, found.credential) == (b"{}", local(), b"words")
    assert found.ordinary and found.confidential and found.update == "/system-update"
    assert found.done == {"a", "b", ""} and (found.local_wrong, found.done_wrong) == ("", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to others")
@pytest.mark.parametrize("name", ["request", "done"])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("mode", "can be written by others than root"),
        ("owner", "is not root's own"),
        ("link", "cannot be opened"),
        ("fifo", "is not a regular file"),
        ("directory", "is not a regular file"),
        ("large", "is larger than 1 MiB"),
        ("parent mode", "its directory can be written by others than root"),
        ("parent owner", "its directory is not root's own"),
        ("parent link", "its directory is not|cannot be opened"),
    ],
)
def test_files_that_are_not_believed(tmp_path: Path, name: str, wrong: str, says: str) -> None:
    known = machine(tmp_path)
    at = tmp_path / "etc/persist" / f"seal.{name}"
    at.write_bytes(local())
    what = at.parent if wrong.startswith("parent ") else at
    kind = wrong.removeprefix("parent ")
    if kind == "mode":
        what.chmod(0o664 if what is at else 0o777)
    elif kind == "owner":
        os.chown(what, 1, 1)
    elif kind == "large":
        at.write_bytes(b" " * ((1 << 20) + 1))
    elif kind == "link":
        what.rename(tmp_path / "elsewhere")
        what.symlink_to(tmp_path / "elsewhere")
    else:
        at.unlink()
        os.mkfifo(at) if kind == "fifo" else at.mkdir()
    found = look.look(known, {})
    said = found.local_wrong if name == "request" else found.done_wrong
    assert any(part in said for part in says.split("|")), said


@pytest.mark.parametrize("unit", look.UNITS)
def test_units_that_are_missing_or_masked(tmp_path: Path, unit: str) -> None:
    known = machine(tmp_path)
    etc = tmp_path / "etc/systemd/system"
    etc.mkdir(parents=True)
    (etc / unit).symlink_to("/dev/null")
    assert look.look(known, {}).units == f"{unit} is masked in /etc/systemd/system"
    (etc / unit).unlink()
    (etc / unit).touch()
    assert look.look(known, {}).units == f"{unit} is masked in /etc/systemd/system"
    (etc / unit).write_text("[Unit]\n")
    assert look.look(known, {}).units == ""
    (etc / unit).unlink()
    (tmp_path / "usr/lib/systemd/system" / unit).unlink()
    assert look.look(known, {}).units == f"{unit} is missing"


@pytest.mark.parametrize("base", look.BEFORE_EARLY)
def test_a_default_target_that_comes_first(tmp_path: Path, base: str) -> None:
    known = machine(tmp_path)
    (tmp_path / base[1:]).mkdir(parents=True)
    (tmp_path / base[1:] / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    assert look.look(known, {}).units == f"{base}/default.target takes the place of ours"


def test_names() -> None:
    assert paths.SEAL_REQUEST.startswith("/etc/persist/") and paths.SEAL_DONE.startswith("/etc/persist/")
