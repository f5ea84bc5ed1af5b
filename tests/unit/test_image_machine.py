# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl image create: the machine that is started, as QEMU's command line, and what it is handed."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from persist.errors import PersistError
from persist.image import firmware
from persist.image.formats import format_of
from persist.image.machine import Machine, Sockets, command_line
from persist.image.request import SCRIPT_MOST, SMBIOS_MOST, Request, check_script, handed

UUID, ID = "11111111-2222-4333-8444-555555555555", "0123456789abcdef0123456789abcdef"
SOCKETS = Sockets(7, 8, 9)
WORD = f"type=11,value=io.systemd.credential:persist.seal={UUID}:{ID}"
DISK = (
    '{"driver": "qcow2", "node-name": "disk", "discard": "unmap", "file": {"driver": "file", '
    '"filename": "/w/overlay.qcow2", "discard": "unmap"}}'
)


def lines(machine: Machine) -> list[str]:
    """The command line, an option and its value in each."""
    words = command_line(machine, SOCKETS)
    found = [words[0]]
    for word in words[1:]:
        if word.startswith("-"):
            found.append(word)
        else:
            found[-1] += f" {word}"
    return found


def test_a_disk_with_a_bios() -> None:
    way = handed(Request(UUID, ID))
    assert lines(Machine("/w/overlay.qcow2", UUID, way, {}, "tcg")) == [
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-nic none",
        "-display none",
        "-vga std",
        "-machine pc,usb=off",
        "-accel tcg,thread=multi",
        "-cpu max",
        "-m 1024",
        "-smp 1",
        f"-uuid {UUID}",
        "-no-reboot",
        f"-blockdev {DISK}",
        "-device virtio-blk-pci,drive=disk,bootindex=1,werror=stop,rerror=stop",
        "-object rng-random,id=random,filename=/dev/urandom",
        "-device virtio-rng-pci,rng=random",
        "-chardev socket,id=port,fd=7",
        "-chardev socket,id=console,fd=8",
        "-chardev socket,id=control,fd=9",
        "-mon chardev=control,mode=control",
        "-serial chardev:console",
        "-device virtio-serial-pci,id=ports",
        "-device virtserialport,bus=ports.0,name=org.persist.seal,chardev=port",
        f"-smbios {WORD}",
    ]


def test_uefi_a_kernel_and_a_script() -> None:
    way = handed(Request(UUID, ID, b"#!/bin/sh\n"))
    uefi = firmware.Firmware("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")
    machine = Machine(
        "/w/overlay.qcow2",
        UUID,
        way,
        {"script": "/w,1/script"},
        "kvm",
        2,
        uefi,
        "/w,1/variables",
        "k",
        "i",
        "a b",
    )
    plain = lines(Machine("/w/overlay.qcow2", UUID, handed(Request(UUID, ID)), {}, "tcg"))
    assert [line for line in lines(machine) if line not in plain] == [
        "-machine q35,usb=off",
        "-accel kvm",
        "-cpu host",
        "-smp 2",
        "-drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
        "-drive if=pflash,unit=1,format=raw,readonly=off,file=/w,,1/variables",
        "-kernel k",
        "-initrd i",
        "-append a b",
        "-smbios type=11,path=/w,,1/script",
    ]


def test_a_small_script_is_in_the_tables_and_a_large_one_is_not() -> None:
    small = b"#!/bin/sh\n".ljust(SMBIOS_MOST, b"#")
    way = handed(Request(UUID, ID, small))
    head, _, body = way.files["script"].partition(b"=")
    assert head == b"io.systemd.credential.binary:persist.operator-script"
    assert base64.b64decode(body, validate=True) == small
    assert len(way.smbios) == 2 and way.fw_cfg == ()
    assert sum(map(len, way.files.values())) + 1024 < 65535, "what QEMU allows for all tables together"
    large = small + b"#"
    way = handed(Request(UUID, ID, large))
    assert way.files == {"script": large} and len(way.smbios) == 1
    assert way.fw_cfg == ("name=opt/io.systemd.credentials/persist.operator-script,file={script}",)
    machine = Machine("o", UUID, way, {"script": "/w/script"}, "tcg")
    assert "-fw_cfg name=opt/io.systemd.credentials/persist.operator-script,file=/w/script" in lines(machine)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (b"", "does not begin with '#!'"),
        (b"echo\n", "does not begin with '#!'"),
        (b"\x7fELF", "does not begin with '#!'"),
        (b"#!/bin/sh\n".ljust(SCRIPT_MOST + 1), "has 524289 bytes; an operator script has at most 524288"),
    ],
)
def test_a_script_that_no_guest_could_run(script: bytes, sentence: str) -> None:
    with pytest.raises(PersistError, match=sentence):
        check_script(script, "s")


@pytest.mark.parametrize(
    ("name", "wanted", "form"),
    [
        ("/a/b.raw", "", "raw"),
        ("b.QCOW2", "", "qcow2"),
        ("b.vhd", "", "vpc"),
        ("b.vmdk", "", "vmdk"),
        ("b.img", "qcow2", "qcow2"),
        ("b.qcow2", "raw", "raw"),
    ],
)
def test_the_format_is_that_of_the_name(name: str, wanted: str, form: str) -> None:
    assert format_of(name, wanted) == form


@pytest.mark.parametrize("name", ["b.img", "/dev/vg/machine", "qcow2", "b.qcow2.bak"])
def test_no_format_is_guessed(name: str) -> None:
    with pytest.raises(PersistError, match="does not tell its format") as e:
        format_of(name)
    assert "--format=raw|qcow2" in e.value.hint


def descriptor(code: str = "/f/code", /, **changes: object) -> str:
    """One as Debian's ovmf has it."""
    found = {
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": code, "format": "raw"},
            "nvram-template": {"filename": "/f/vars", "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
        "features": ["acpi-s3", "amd-sev", "verbose-dynamic"],
    }
    return json.dumps(found | changes)


@pytest.mark.parametrize(
    "text",
    [
        descriptor(features=["requires-smm", "secure-boot"]),
        descriptor(features=["enrolled-keys"]),
        descriptor(targets=[{"architecture": "aarch64", "machines": ["virt-*"]}]),
        descriptor(targets=[{"architecture": "x86_64", "machines": ["microvm"]}]),
        descriptor().replace("uefi", "bios"),
        descriptor(mapping={"device": "memory", "filename": "/f/code"}),
        descriptor(mapping={"device": "flash", "mode": "stateless", "executable": {}}),
        descriptor(features=None),
        "[]",
        "{",
    ],
)
def test_a_firmware_that_is_not_for_such_a_machine(text: str) -> None:
    assert firmware.from_descriptor(text) is None


def test_the_first_firmware_that_is_there_is_taken(tmp_path: Path) -> None:
    etc, usr = tmp_path / "etc", tmp_path / "usr"
    for directory in (etc, usr):
        directory.mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    for name in ("10-gone", "30-a", "40-b"):
        text = descriptor(str(tmp_path / name[3:])).replace("/f/vars", str(tmp_path / "a"))
        (usr / f"{name}.json").write_text(text)
    directories = (str(etc), str(usr))
    assert firmware.find(directories).code == str(tmp_path / "a")
    (etc / "30-a.json").write_text("{}")
    assert firmware.find(directories).code == str(tmp_path / "b"), "/etc replaces by name"
    with pytest.raises(PersistError, match="No UEFI firmware for QEMU is installed") as e:
        firmware.find((str(etc),))
    assert "ovmf" in e.value.hint
