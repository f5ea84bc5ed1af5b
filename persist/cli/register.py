# SPDX-License-Identifier: LGPL-2.1-or-later
"""persistctl register, unregister, register-state-path: paths that an image keeps where no package says
so."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from persist.boot.ini import words
from persist.cli import show
from persist.errors import PersistError

_KEYS = ("type", "user", "group", "mode")


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    sub = verbs.add_parser(
        "register",
        help="have an image keep paths",
        description="Write a registry file for each PATH into /usr/lib/persist.d, while an image is built. "
        "All of them can be kept, or none is written.",
    )
    sub.add_argument("paths", nargs="*", metavar="PATH", help="an absolute path, which need not be there")
    sub.add_argument(
        "--finalise",
        action="store_true",
        help="the last step: move the content of what will be links to where its seed is looked for",
    )
    how = sub.add_mutually_exclusive_group()
    how.add_argument(
        "--method",
        choices=("bind", "overlay", "symlink"),
        default="bind",
        help="how it is kept (default: bind, which leaves it to packages where it is)",
    )
    how.add_argument(
        "--leave-symlink",
        dest="method",
        action="store_const",
        const="symlink",
        help="the same as --method=symlink",
    )
    for key, takes, text in (
        ("type", "directory|file", "what is made where the image has nothing"),
        ("user", "USER", "owner of the path"),
        ("group", "GROUP", "group of the path"),
        ("mode", "MODE", "octal mode of the path"),
    ):
        sub.add_argument(f"--{key}", default="", metavar=takes, help=text)
    sub.add_argument(
        "--services",
        action="append",
        default=[],
        metavar="UNIT",
        help="a unit that waits for the path; may be repeated, or be several with blanks or commas between",
    )
    show.options(sub, root=True)
    sub.set_defaults(run=run)
    _add_others(verbs)


def _add_others(verbs: Any) -> None:
    sub = verbs.add_parser(
        "unregister",
        help="take back what register wrote",
        description="Take the registry file of each PATH away. What the volume keeps stays there.",
    )
    sub.add_argument("paths", nargs="+", metavar="PATH", help="a path as it was registered")
    show.options(sub, root=True)
    sub.set_defaults(run=run)
    sub = verbs.add_parser(
        "register-state-path",
        help="TripleO's command of that name",
        description="Put PATH on the list in /var/lib/use-ephemeral that 'persistctl register --finalise' "
        "reads.",
    )
    sub.add_argument("paths", nargs=1, metavar="PATH", help="an absolute path, which need not be there")
    sub.add_argument("--leave-symlink", action="store_true", help="leave a link to the volume at the path")
    show.options(sub, root=True)
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says, and say what was changed."""
    from persist.register.files import alone

    finalise = vars(arguments).get("finalise", False)
    work = _finalise if finalise else _WORK[arguments.verb]
    try:
        with alone(show.root_of(arguments)):
            changed, notes = work(arguments)
    except OSError as e:
        if isinstance(e, PermissionError) and os.geteuid():
            raise PersistError(
                f"Only root can change the registry of an image ({e.filename}: {e.strerror}).",
                hint="Run it as root, with sudo for one.",
            ) from None
        raise PersistError(
            f"Failed to {arguments.verb}: {e}.",
            hint="This is for images that are built. Where /usr is read-only, write into /etc/persist.d.",
        ) from e
    if arguments.json:
        done = (
            {"action": "finalise", "paths": changed}
            if finalise
            else {"action": arguments.verb, "files": changed}
        )
        show.print_json({**done, "notes": notes})
        return 0
    for name in changed:
        print(show.safe(name))
    for note in notes:
        print(show.safe(note), file=sys.stderr)
    return 0


def _register(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    from persist.foresee.image import Image
    from persist.register.check import judge
    from persist.register.files import write
    from persist.register.wish import Wish

    if not arguments.paths:
        raise PersistError(
            "There is no path to register.", hint="Name one or more, or use --finalise for the last step."
        )
    keys = {key: getattr(arguments, key) for key in _KEYS}
    services = tuple(words(" ".join(arguments.services).replace(",", " ")))
    image = Image(show.root_of(arguments))
    plan = judge([Wish(path, arguments.method, services=services, **keys) for path in arguments.paths], image)
    return write(plan, image), plan.notes


def _unregister(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    from persist.foresee.image import Image
    from persist.register.files import remove

    paths = [path.rstrip("/") or "/" for path in arguments.paths]
    return remove(paths, Image(show.root_of(arguments)))


def _finalise(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    from persist.foresee.image import Image
    from persist.register.finalise import finalise

    if arguments.paths:
        raise PersistError("--finalise takes no path.", hint="It finishes all that is registered.")
    return finalise(Image(show.root_of(arguments)))


def _state_path(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    from persist.foresee.image import Image
    from persist.register import tripleo
    from persist.register.check import judge
    from persist.register.wish import Wish

    image = Image(show.root_of(arguments))
    plan = judge([Wish(arguments.paths[0], "symlink" if arguments.leave_symlink else "bind")], image)
    return [tripleo.LIST] if tripleo.add(plan.wishes[0], image) else [], plan.notes


_WORK = {"register": _register, "unregister": _unregister, "register-state-path": _state_path}
