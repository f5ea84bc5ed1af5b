# SPDX-License-Identifier: LGPL-2.1-or-later
"""``make test-install``: the packages installed with apt in the plain system of the images, used,
reinstalled, purged, all files compared.

python3 -m tests.vm.install [SUITE...]
"""

from __future__ import annotations

import argparse
import shutil
import sys

from . import chroot, image, recipe, scene
from .cache import WorkDir
from .errors import MachineError
from .progress import note, step

INSIDE = "packaging/check-install-inside"


def check(suite: str) -> None:
    """One release; BuildError with what was said when something is wrong, MachineError without packages."""
    packages = scene.packages()
    work = WorkDir(f"install-{suite}")
    try:
        tree = work.path / "tree"
        with step(f"{suite}: a plain system"):
            image.unpack_base(image.Request(suite), tree)
        # It leaves out documentation, for the images; here each file that we ship counts.
        (tree / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink()
        (tree / "packages/host").mkdir(parents=True)
        for file in (*packages, scene.checkout() / INSIDE):
            of_host = file.name.startswith("persist-image-tools_")
            shutil.copy(file, tree / ("packages/host" if of_host else "packages"))
        with step(f"{suite}: install, use, reinstall, purge"):
            said = chroot.run(tree, "/packages/check-install-inside")
        note("\n".join(line for line in said.splitlines() if line.startswith("check-install-inside:")))
    finally:
        work.close()


def main() -> int:
    """Exit status 0 only if all of them are as they should be."""
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.vm.install",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suites", nargs="*", default=recipe.SUITES, metavar="SUITE")
    failed = []
    for suite in parser.parse_args().suites:
        try:
            check(suite)
        except (chroot.BuildError, MachineError) as e:
            print(f"test-install: {suite}: {e}", file=sys.stderr)
            failed.append(suite)
    if failed:
        print(f"test-install: FAILED: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
