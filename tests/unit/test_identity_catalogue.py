# SPDX-License-Identifier: LGPL-2.1-or-later
"""The shipped catalogue of identities: each entry is sound, says why, has a way back, and keeps to its
own."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from persist.boot.ini import Problem
from persist.seal.look.pattern import wrong_pattern
from persist.seal.section import Item, load

from .identity_patterns import CATALOGUE, of_catalogue, regex, sections
from .identity_samples import SAMPLES

FILES = sorted(CATALOGUE.glob("*.conf"))
ENTRIES = {
    f"{file.stem}-{number}": section for file in FILES for number, section in enumerate(sections(file), 1)
}
KEYS = {"Path", "Action", "Class", "Content", "Exec", "RegeneratedBy", "Regenerate", "Reason", "X-Seen"}
SUITES = {"bookworm", "trixie"}

# virt-sysprep's operations that are on by default -> the entry that does the same on Debian, and what
# that leaves; or why none does.
SYSPREP = {
    "abrt-data": "Red Hat's",
    "backup-files": "not ours: what ends in ~ or .bak may be all that somebody has",
    "bash-history": "bash-1",
    "blkid-tab": "below /run on Debian, and in no image",
    "crash-data": "base-files-3",
    "cron-spool": "at-1; left: crontabs, which may be meant for the clones (cron-1)",
    "customize": "no operation, but what the caller asks for",
    "dhcp-client-state": "isc-dhcp-client-1",
    "dhcp-server-state": "isc-dhcp-server-1",
    "dovecot-data": "dovecot-1; left: what is no cache there, such as sieve scripts",
    "ipa-client": "freeipa-client-1",
    "kerberos-hostkeytab": "krb5-1",
    "logfiles": "rsyslog-1; the others are in the files of their packages",
    "lvm-system-devices": "lvm2-1",
    "lvm-uuids": "left: what lies on disks is not in files, and is out of scope",
    "machine-id": "systemd-1",
    "mail-spool": "base-files-2",
    "net-hostname": "Red Hat's; base-files-4 reports Debian's",
    "net-hwaddr": "Red Hat's; systemd-14 reports Debian's",
    "net-nmconn": "Red Hat's; network-manager-4 reports it here, for the clones may be meant to use it",
    "pacct-log": "acct-1",
    "package-manager-cache": "apt-2",
    "pam-data": "below /run on Debian, and in no image",
    "passwd-backups": "passwd-1",
    "puppet-data-log": "puppet-1",
    "rh-subscription-manager": "Red Hat's",
    "rhn-systemid": "Red Hat's",
    "rpm-db": "Red Hat's",
    "samba-db-log": "samba-1; left: settings and shares (registry.tdb, share_info.tdb)",
    "script": "no operation, but what the caller asks for",
    "smolt-uuid": "Red Hat's",
    "ssh-hostkeys": "openssh-server-1",
    "ssh-userdir": "openssh-client-1; left: authorized_keys, which may be what the image is for",
    "sssd-db-log": "sssd-1",
    "tmp-files": "base-files-1",
    "udev-persistent-net": "udev-1",
    "utmp": "below /run on Debian, and in no image",
    "yum-uuid": "Red Hat's",
    "zsh-history": "zsh-1",
}


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """All that the product reads of the catalogue, where it is installed; it has no problem with it."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(CATALOGUE, root / "usr/lib/persist/identity.d")
    problems: list[Problem] = []
    found = load(str(root), problems)
    assert list(map(str, problems)) == []
    return found


def test_the_product_takes_them_all(items: list[Item]) -> None:
    assert len(items) == len(ENTRIES)
    assert [item.patterns for item in items] == [tuple(each["Path"].split()) for each in ENTRIES.values()]


def test_there_are_enough() -> None:
    seen = [name for name, each in ENTRIES.items() if each.get("X-Seen")]
    assert len(ENTRIES) >= 60 and len(seen) >= 40


@pytest.mark.parametrize("name", ENTRIES)
def test_entry(name: str) -> None:
    each = ENTRIES[name]
    assert set(each) <= KEYS
    assert each["Reason"].endswith(".") and len(each["Reason"]) > 10
    assert each["Class"] and each["Action"]
    assert set(each.get("X-Seen", "").split()) <= SUITES
    assert not [pattern for pattern in each["Path"].split() if wrong_pattern(pattern)]
    assert ("Exec" in each) == (each["Action"] == "run")
    if each["Action"] == "report" or each["Class"] == "shared":
        assert each["Action"] == "report", "what clones share is not wiped"
        assert not {"RegeneratedBy", "Regenerate"} & set(each), "what stays needs no way back"
    elif each["Class"] in ("identity", "secret"):
        assert {"RegeneratedBy", "Regenerate"} & set(each), "nobody would make it again"


@pytest.mark.parametrize(
    "name", [name for name, each in ENTRIES.items() if {"Regenerate", "Exec"} & set(each)]
)
def test_command(name: str) -> None:
    """By its whole path; the part for the shell, where there is one, is in one piece."""
    for key in ("Regenerate", "Exec"):
        words = shlex.split(ENTRIES[name].get(key, "/x"))
        assert words[0].startswith("/")
        assert words[0] != "/bin/sh" or words[1] == "-c" and len(words) == 3
        assert words[0] != "/bin/sh" or re.search(r"(^|; |\()/usr/", words[2]), (
            "seal asks whether it is there"
        )
        assert words[0] == "/bin/sh" or not set("|<>;&$`") & set("".join(words)), "nobody reads it but exec"


def test_no_key_is_emptied() -> None:
    """sshd takes no empty key, and many a program makes none where there is a file."""
    emptied = {
        name for name, each in ENTRIES.items() if each["Action"] == "truncate" and each["Class"] != "log"
    }
    # A DHCP server and an agent want their file; debconf's is a table.
    assert emptied == {"debconf-1", "isc-dhcp-server-1", "wazuh-agent-1"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_file(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# SPDX-License-Identifier: LGPL-2.1-or-later" and lines[1].startswith("# ")
    assert sections(file)
    assert all(len(line) <= 110 for line in lines if line.startswith("#"))


def test_no_pattern_stands_twice() -> None:
    patterns = [pattern for each in ENTRIES.values() for pattern in each["Path"].split()]
    assert [pattern for pattern in set(patterns) if patterns.count(pattern) > 1] == []


@pytest.mark.parametrize("name", ENTRIES)
def test_each_entry_has_a_sample(name: str) -> None:
    file = name.rpartition("-")[0]
    mine = [regex(pattern) for pattern in ENTRIES[name]["Path"].split()]
    assert [path for other, path, _ in SAMPLES if other == file and any(p.match(path) for p in mine)]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample[1])
def test_sample(sample: tuple[str, str, str]) -> None:
    """An entry matches what it is there for, and nothing of the catalogue what lies beside it."""
    file, path, beside = sample
    assert f"{file}.conf" in {name for name, pattern in of_catalogue() if pattern.match(path)}
    assert [name for name, pattern in of_catalogue() if pattern.match(beside)] == []


@pytest.mark.parametrize("operation", SYSPREP)
def test_what_virt_sysprep_does(operation: str) -> None:
    """Its default operations, as its manual of guestfs-tools 1.48 has them."""
    entry, _, _ = SYSPREP[operation].partition("; ")
    if entry in ENTRIES:
        assert ENTRIES[entry]["Action"] != "report"
    else:
        assert " " in entry or entry == "Red Hat's", "an entry that is not there"


def test_all_of_virt_sysprep() -> None:
    assert len(SYSPREP) == 39
