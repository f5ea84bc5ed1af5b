# SPDX-License-Identifier: LGPL-2.1-or-later
"""The generator runs while PID 1 waits: what it imports, asks and writes is a closed list
(docs/architecture.md)."""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest

TOP = Path(__file__).resolve().parents[2]
GENERATOR = TOP / "generators" / "persist-generator"
PYTHON = "/usr/bin/python3"


def machine(root: Path, entries: int) -> Path:
    """A root directory with an enabled target and some entries of all methods, and an empty directory for the
    units."""
    wants = root / "etc/systemd/system/local-fs.target.wants"
    wants.mkdir(parents=True)
    (wants / "persist-setup.target").symlink_to("/usr/lib/systemd/system/persist-setup.target")
    registry = root / "usr/lib/persist.d"
    registry.mkdir(parents=True)
    methods = ("overlay", "bind", "symlink", "tmpfs")
    for i in range(entries):
        (registry / f"{i:03}.conf").write_text(
            f"[Path]\nPath=/srv/grün/{i}\nMethod={methods[i % 4]}\nServices=a{i}.service\nUser=u{i}\n"
        )
    if entries:
        # Not mounted, and required all the same.
        (registry / "etc.conf").write_text("[Path]\nPath=/etc\nRequired=service\n")
        (root / "proc/1").mkdir(parents=True)
        (root / "proc/1/mountinfo").write_text("1 1 0:1 / / rw - ext4 /dev/vda1 rw\n")
        (registry / "migrations.conf").write_text(
            "".join(f"[Migration]\nId={i}\nPath=/srv/grün/{i}\nExec=/bin/true\n" for i in range(entries))
        )
        (registry / "bad.conf").write_bytes(b"\xff\n")
        (registry / "worse.conf").write_text("nonsense\n[Path]\nPath=/usr\n[Path]\nPath=no\n")
    (root / "etc/fstab").write_text("UUID=1 /srv/grün/0 ext4 defaults\n")
    out = root.parent / "out"
    out.mkdir()
    return out


def environment(root: Path) -> dict[str, str]:
    return {"PERSIST_LIBRARY": str(TOP), "PERSIST_GENERATOR_ROOT": str(root), "PYTHONDONTWRITEBYTECODE": "1"}


def imports(arguments: list[str], env: dict[str, str]) -> set[str]:
    done = subprocess.run(
        [PYTHON, "-IS", "-X", "importtime", *arguments], env=env, capture_output=True, text=True, check=True
    )
    return set(re.findall(r"^import time:[^|]*\|[^|]*\|\s*(\S+)", done.stderr, re.MULTILINE)) - {"imported"}


def imported(root: Path, out: Path) -> set[str]:
    return imports([str(GENERATOR), str(out)], environment(root))


@pytest.mark.parametrize("entries", [0, 8])
def test_imports(tmp_path: Path, entries: int) -> None:
    root = tmp_path / "root"
    found = imported(root, machine(root, entries))
    ours = {name for name in found if name == "boot" or name.startswith("boot.")}
    assert "boot.main" in ours
    assert found - ours <= imports(["-c", "import os, sys, stat, errno, gc"], {}), (
        "os, sys, stat, errno and gc, and what they bring themselves"
    )
    if not entries:
        assert "boot.plan" not in ours and "boot.registry" not in ours, (
            "a machine without a registry pays for none"
        )


def compiled(library: Path, mode: PycInvalidationMode) -> None:
    """A copy of the package with its bytecode beside it."""
    shutil.copytree(TOP / "persist", library / "persist", ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(library, quiet=1, invalidation_mode=mode)


def written(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("entries", [0, 8])
def test_what_is_installed_is_loaded_without_importlib(tmp_path: Path, entries: int) -> None:
    """preload() names all modules, each after those that it needs: importlib would not be faster for one that
    it finds after all."""
    root, library, again = tmp_path / "root", tmp_path / "library", tmp_path / "again"
    out = machine(root, entries)
    compiled(library, PycInvalidationMode.UNCHECKED_HASH)
    found = imports([str(GENERATOR), str(out)], {**environment(root), "PERSIST_LIBRARY": str(library)})
    lazy = {"boot.rare.near"} if entries else set()  # where something is wrong
    assert {name for name in found if name.startswith(("boot", "persist"))} == {"boot"} | lazy
    again.mkdir()
    subprocess.run([str(GENERATOR), str(again)], env=environment(root), check=True, capture_output=True)
    assert written(out) == written(again) and len(written(out)) > entries > 0 or not entries


def test_a_boot_that_seals_is_loaded_without_importlib(tmp_path: Path) -> None:
    """The only one that loads json; where nobody asks for it, nothing of it is looked for (below)."""
    root, library = tmp_path / "root", tmp_path / "library"
    out = machine(root, 0)
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (root / "run/persist").mkdir(parents=True)
    (root / "run/persist/seal").write_text("{}")
    compiled(library, PycInvalidationMode.UNCHECKED_HASH)
    found = imports([str(GENERATOR), str(out)], {**environment(root), "PERSIST_LIBRARY": str(library)})
    assert (out / "default.target").is_symlink()
    assert {name for name in found if name.startswith(("boot", "persist"))} == {"boot"} and "json" in found


@pytest.mark.parametrize("mode", [*PycInvalidationMode, None])
def test_a_source_that_was_changed(tmp_path: Path, mode: PycInvalidationMode | None) -> None:
    """What importlib would look at is looked at; only bytecode that says that its source does not matter is
    taken at once."""
    root, library = tmp_path / "root", tmp_path / "library"
    out = machine(root, 8)
    compiled(library, mode or PycInvalidationMode.UNCHECKED_HASH)
    source = library / "persist/boot/paths.py"
    text = source.read_text()
    assert "persist-generator" in text
    source.write_text(text.replace("persist-generator", "another-generator"))
    if mode is None:  # of another interpreter
        for file in (library / "persist/boot/__pycache__").glob("[!_]*"):
            file.write_bytes(b"xx" + file.read_bytes()[2:])
    subprocess.run(
        [str(GENERATOR), str(out)],
        env={**environment(root), "PERSIST_LIBRARY": str(library)},
        check=True,
        capture_output=True,
    )
    old = mode is PycInvalidationMode.UNCHECKED_HASH
    assert all(
        text.startswith(f"# Automatically generated by {'persist' if old else 'another'}-generator\n")
        for text in written(out).values()
    )
    assert len(written(out)) > 8


@pytest.mark.parametrize("missing", ["_frozen_importlib", "_frozen_importlib_external"])
def test_a_python_that_names_its_parts_otherwise(tmp_path: Path, missing: str) -> None:
    compiled(tmp_path, PycInvalidationMode.UNCHECKED_HASH)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import persist.boot; there = "
        f"sys.modules.pop({missing!r}); sys.modules[{missing!r}] = None\n"
        f"persist.boot.preload('paths'); sys.modules[{missing!r}] = there\nprint('persist.boot.paths' in "
        "sys.modules)\nimport persist.boot.main"
    )
    done = subprocess.run([PYTHON, "-IBS", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_package_does_without_os() -> None:
    """It costs a millisecond, see persist/boot/__init__.py."""
    modules = ", ".join(
        f"persist.boot.{path.stem}" for path in (TOP / "persist/boot").glob("*.py") if path.stem != "__init__"
    )
    code = f"import sys; sys.path.insert(0, {str(TOP)!r}); import {modules}; print(*sys.modules)"
    done = subprocess.run([PYTHON, "-IBS", "-c", code], capture_output=True, text=True, check=True)
    extra = {
        name for name in done.stdout.split() if name != "persist" and not name.startswith("persist.")
    } - set(sys.builtin_module_names)
    assert extra <= {
        "__main__",
        "_frozen_importlib",
        "_frozen_importlib_external",
        "zipimport",
        "codecs",
        "encodings",
        "encodings.aliases",
        "encodings.utf_8",
        "io",
        "abc",
    }


def test_imports_where_nothing_is_enabled(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    assert {name for name in imported(root, out) if name.startswith(("boot", "persist"))} == {
        "boot",
        "boot.main",
        "boot.facts",
        "boot.paths",
    }


def test_first_line() -> None:
    line = GENERATOR.read_text().split("\n", 1)[0]
    assert re.fullmatch(r"#!/usr/bin/python3 -[A-Za-z0-9]+", line), (
        "one argument is all that a first line can carry"
    )
    assert "I" in line.split(" -")[1] and "S" in line.split(" -")[1], (
        "without -S, site.py asks NSS for the home directory, which can deadlock PID 1"
    )


@pytest.mark.skipif(not shutil.which("strace"), reason="no strace")
def test_system_calls(tmp_path: Path) -> None:
    """No socket, no process, no NSS, and nothing opened for writing but units in the directory."""
    root = tmp_path / "root"
    out = machine(root, 8)
    trace = tmp_path / "trace"
    done = subprocess.run(
        ["strace", "-f", "-y", "-qq", "-o", str(trace), PYTHON, "-IBS", str(GENERATOR), str(out)],
        env=environment(root),
        capture_output=True,
        text=True,
    )
    if not trace.exists() or "ptrace" in done.stderr:
        pytest.skip("ptrace is not allowed here")
    assert done.returncode == 0
    calls = trace.read_text(errors="backslashreplace").splitlines()[1:]  # the first is the execve of Python
    assert sum(str(out) in call and "O_CREAT" in call for call in calls) >= 7
    for call in calls:
        name = re.sub(r"^\d+\s+", "", call).partition("(")[0]
        assert name not in (
            "socket",
            "connect",
            "fork",
            "vfork",
            "clone",
            "clone3",
            "execve",
            "mount",
            "unlink",
            "unlinkat",
            "rename",
            "symlink",
            "symlinkat",
        ), call
        assert (
            "nsswitch" not in call
            and "nscd" not in call
            and "/etc/passwd" not in call
            and "/etc/group" not in call
        ), call
        if name in ("mkdir", "mkdirat") or "O_WRONLY" in call or "O_RDWR" in call or "O_CREAT" in call:
            assert re.match(
                rf'\d+\s+(openat|mkdirat)\(\d+<{re.escape(str(out))}>, "[^/."][^/"]*(/50-persist[^/"]*)?", ',
                call,
            ), call


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root")
def test_all_else_read_only(tmp_path: Path) -> None:
    """As in PID 1's sandbox for generators: everything but the output directory is read-only."""
    root = tmp_path / "root"
    out = machine(root, 8)
    script = (
        'set -e; mount --bind "$1" "$1"; mount -o remount,bind,ro /; mount -t tmpfs -o ro none /tmp '
        '2>/dev/null || :; exec "$2" "$1"'
    )
    if str(tmp_path).startswith("/tmp"):
        script = 'set -e; mount --bind "$1" "$1"; mount -o remount,bind,ro /; exec "$2" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(out), str(GENERATOR)],
        env={**environment(root), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount namespaces here: " + done.stderr.strip())
    assert done.returncode == 0
    assert len(list(out.glob("*.mount"))) >= 3 and len(list(out.glob("persist-bind@*.service"))) >= 2
    assert (out / "persist-setup.target.d/50-persist.conf").exists()


def test_legacy_locale(tmp_path: Path) -> None:
    """PID 1 hands on LANG=; with a locale that is not UTF-8 the paths are still those that systemd means."""
    root = tmp_path / "root"
    out = machine(root, 0)
    (root / "data/ř").mkdir(parents=True)
    (root / "srv").mkdir()
    (root / "srv/link").symlink_to("/data/ř")
    (root / "usr/lib/persist.d/ř.conf").write_text("[Path]\nPath=/srv/link\n")
    made = tmp_path / "locales/en_US.ISO-8859-1"
    made.parent.mkdir()
    subprocess.run(["localedef", "-c", "-i", "en_US", "-f", "ISO-8859-1", made], check=True)
    legacy = {**environment(root), "LOCPATH": str(made.parent)}
    code = "import sys; print(sys.getfilesystemencoding())"
    asked = [PYTHON, "-IS", "-c", code]
    found = subprocess.run(
        asked, env={**legacy, "LANG": made.name}, capture_output=True, text=True, check=True
    )
    assert found.stdout == "iso8859-1\n", "which is what this is about"
    for lang in (made.name, "C", "C.UTF-8", "xx_YY.ISO-8859-1"):
        subprocess.run([str(GENERATOR), str(out)], env={**legacy, "LANG": lang}, check=True)
        assert (out / "data-\\xc5\\x99.mount").exists()
        shutil.rmtree(out)
        out.mkdir()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root")
@pytest.mark.parametrize("scope", ["system", "user"])
def test_kernel_log(tmp_path: Path, scope: str) -> None:
    """Run by PID 1, with three directories and a scope, messages go to /dev/kmsg: one record, whatever the
    message holds."""
    root = tmp_path / "root"
    out = machine(root, 0)
    (root / "usr/lib/persist.d/a.conf").write_text("[Path]\nPath=/srv/\x1b[31m" + "x" * 2000 + "\n")
    log = tmp_path / "kmsg"
    log.touch()
    script = 'mount --bind "$1" /dev/kmsg || exit 77; exec "$2" "$3" "$3" "$3"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(log), str(GENERATOR), str(out)],
        capture_output=True,
        text=True,
        env={**environment(root), "PATH": os.environ["PATH"], "SYSTEMD_SCOPE": scope},
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.returncode == 0 and done.stderr == ""
    if scope == "user":
        assert log.read_text() == ""
        return
    text = log.read_text()
    assert re.match(
        r"<3>persist-generator\[\d+\]: /usr/lib/persist\.d/a\.conf:2: Path='/srv/\\x1b\[31mxxx", text
    )
    assert text.isprintable() and len(text) < 900


@pytest.mark.parametrize("module", ["volume", "format", "heal", "seed", "bind", "verify"])
def test_services_load_nothing_heavy(module: str) -> None:
    """What each boot starts, and the journal's part of it: these take longer to load than most of the
    services have to do."""
    heavy = {
        "dataclasses",
        "inspect",
        "uuid",
        "hashlib",
        "logging",
        "pathlib",
        "tempfile",
        "socket",
        "asyncio",
        "pyudev",
        "dbus_next",
        "argparse",
        "systemd.journal",
        "systemd.daemon",
    }
    code = (
        f"import sys; sys.path[:0] = [{str(TOP)!r}, '/usr/lib/python3/dist-packages']\n"
        f"import persist.services.{module}\nfrom persist import log\nlog._of_systemd('journal'), "
        "log._of_systemd('daemon')\nprint(*sys.modules)"
    )
    done = subprocess.run([PYTHON, "-IBS", "-c", code], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert {f"persist.services.{module}", "systemd._journal", "systemd._daemon"} <= found
    assert not heavy & found


def test_the_stage_loads_what_a_steady_boot_needs() -> None:
    """PID 1 waits for it: loading modules is most of what it takes. Seeding, formatting and what is only for
    type checkers comes with the boot that needs it."""
    begin = f"import sys; sys.path.insert(0, {str(TOP)!r})\nimport persist.services.early"
    # The filesystems' modules are loaded beside all that comes after these.
    at_once = imports(["-c", begin], {})
    assert "persist.early.coldplug" in at_once
    assert not at_once & {"persist.early.stage", "persist.boot.load", "subprocess", "re", "json", "threading"}
    found = imports(["-c", f"{begin}\nimport persist.early.stage"], {})
    rare = (
        "persist.seed.seed",
        "persist.seed.copy",
        "persist.volume.format.claims",
        "persist.entries.read_only_boot",
    )
    heavy = (
        "site",
        "typing",
        "dataclasses",
        "inspect",
        "logging",
        "pathlib",
        "tempfile",
        "socket",
        "hashlib",
        "uuid",
    )
    assert not found & {*rare, *heavy}
    first = (TOP / "bin/persist-service").read_text().split("\n", 1)[0]
    assert first == "#!/usr/bin/python3 -IS"


@pytest.mark.parametrize("step", ["early", "volume", "verify"])
def test_the_services_find_what_others_have_packaged(step: str) -> None:
    """Without site, too: the stage of a soft reboot asks udev, which runs then."""
    begin, end, _ = (TOP / "bin/persist-service").read_text().partition("from persist.services.main")
    assert end
    asked = "import persist.system.udev, persist.system.systemd_bus; from systemd import _journal"
    code = f"import sys; sys.argv = ['persist-service', {step!r}]\n{begin}\n{asked}"
    done = subprocess.run(
        [PYTHON, "-IBS", "-c", code],
        env={"PERSIST_LIBRARY": str(TOP)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
