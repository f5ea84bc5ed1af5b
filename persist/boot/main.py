# SPDX-License-Identifier: LGPL-2.1-or-later
"""The generator: ``persist-generator NORMAL [EARLY LATE]`` (systemd.generator(7)). Boot-safe.

``PERSIST_GENERATOR_ROOT`` names another root directory: documented, for tests and images.
"""

import posix as os  # see __init__.py
import sys

from . import facts, preload
from .paths import GENERATOR, SEAL_BEGUN, SEAL_REQUEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from .ini import Problem

CRIT, ERR, WARNING, NOTICE, DEBUG = 2, 3, 4, 5, 7
LONGEST_LINE = 600  # the kernel's records end at about a thousand bytes
MOST_LINES = 50  # a file of garbage must not push everything else out of the kernel's log


def _log(level: int, text: str, to_kmsg: bool) -> None:
    """One line to /dev/kmsg when PID 1 runs us (no journal to talk to yet), else to standard error. Never
    raises."""
    if level == DEBUG and os.environ.get(b"SYSTEMD_LOG_LEVEL") not in (b"debug", b"7"):
        return  # it would be one line more at each reload
    if not text.isprintable():
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        text = "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in text])
    if len(text) > LONGEST_LINE:
        text = text[:LONGEST_LINE] + "..."
    try:
        if to_kmsg:
            fd = os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
            try:
                os.write(fd, ("<%d>%s[%d]: %s" % (level, GENERATOR, os.getpid(), text)).encode())
                return
            finally:
                os.close(fd)
    except OSError:
        pass  # no kernel log in a sandbox; then standard error
    try:
        os.write(2, ("%s: %s\n" % (GENERATOR, text)).encode())
    except OSError:
        pass  # nobody listens


def _report(problems: "list[Problem]", to_kmsg: bool) -> None:
    if len(problems) > MOST_LINES:
        problems = sorted(problems, key=lambda p: p.level)  # what costs an entry first
    for problem in problems[:MOST_LINES]:
        _log(problem.level, str(problem), to_kmsg)
    if len(problems) > MOST_LINES:
        _log(WARNING, "%d more problems, see persistctl verify." % (len(problems) - MOST_LINES), to_kmsg)


def seal_asked(known: facts.Facts, environ: "Mapping[str, str]") -> bool:
    """Whether anything may ask that this machine be sealed, or has in this boot: seal/decide.py says what of
    it."""
    if known.in_initrd or known.container or known.user_scope:
        return False
    if "persist.seal" in known.cmdline:
        return True
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    more = (credentials + "/persist.seal",) if credentials else ()
    for path in (SEAL_REQUEST, SEAL_BEGUN, *more):
        try:
            os.lstat(known.root + path)
            return True
        except OSError as e:
            if e.errno not in (2, 20):  # ENOENT, ENOTDIR
                return True  # nobody can tell, and that is said
    return False


def _seal(known: facts.Facts, environ: dict[str, str], early: str, to_kmsg: bool) -> bool:
    """Have this boot seal the machine, where that is asked for and is to be; else say why not. Whatever fails
    leaves an ordinary boot."""
    preload("seal/__init__", "seal/request", "seal/look", "seal/decide")
    from .seal.decide import REFUSED, SEAL, decide
    from .seal.look import look

    answer = decide(look(known, environ))
    if answer.kind == REFUSED:
        _log(WARNING, "%s %s" % (answer.sentence, answer.hint), to_kmsg)
    if answer.kind != SEAL:
        return False
    preload("ini", "dropins", "config", "seal/links")
    from . import config
    from .seal.links import Links, wanted

    problems: list[Problem] = []
    units = wanted(known.root, config.load(known.root, problems))
    _report(problems, to_kmsg)
    try:
        Links(early).make(units)
    except OSError as e:
        _log(ERR, "Not sealing, though it is asked for: Failed to make %s/%s." % (early, e.strerror), to_kmsg)
        return False
    asked = "" if answer.request is None else " (ID %s)" % answer.request.id
    _log(NOTICE, "This boot seals the machine, and nothing else%s." % asked, to_kmsg)
    return True


def _sealing(known: facts.Facts, environ: dict[str, str], early: str, to_kmsg: bool) -> bool:
    """_seal(), and a mistake of ours in it is said and makes an ordinary boot."""
    try:
        return _seal(known, environ, early, to_kmsg)
    except Exception as e:  # noqa: BLE001  # as in main()
        _log(CRIT, "Not sealing, though it is asked for: %s: %s." % (type(e).__name__, e), to_kmsg)
        return False


def _generate(root: str, environ: dict[str, str], directory: str, early: str, to_kmsg: bool) -> None:
    known = facts.gather(root, environ)
    if seal_asked(known, environ) and _sealing(known, environ, early, to_kmsg):
        return
    reason = facts.why_nothing(known) or ("" if facts.any_fragments(root) else "the registry has no files")
    if reason:
        _log(DEBUG, "Nothing to do: %s." % reason, to_kmsg)
        return
    # In the order in which they import one another.
    preload("ini", "dropins", "config", "entry", "registry", "units", "accept", "plan", "load", "emit")
    preload("fstab")
    from .emit import emit
    from .load import Loaded

    loaded = Loaded(root, known, environ)
    _report(loaded.problems, to_kmsg)
    if loaded.plan.reason:
        _log(DEBUG, "Nothing to do: %s." % loaded.plan.reason, to_kmsg)
        return
    problems: list[Problem] = []
    emit(loaded.plan, directory, problems)
    _report(problems, to_kmsg)


def main(argv: list[str]) -> int:
    """Run as a generator; exit status 0 also where files were bad, 1 when nothing could be done at all."""
    if len(argv) not in (2, 4):
        sys.stderr.write("%s: this program takes one or three directories as arguments.\n" % GENERATOR)
        return 1
    if sys.getfilesystemencoding() != "utf-8":
        # PID 1 has a LANG= of old in its environment; systemd's names are UTF-8, and so are ours.
        os.execv(sys.executable, [sys.executable, "-IS", "-X", "utf8", *argv])
    environ = {
        key.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for key, value in os.environ.items()
    }
    to_kmsg = len(argv) == 4 and environ.get("SYSTEMD_SCOPE") == "system"
    try:
        root = environ.get("PERSIST_GENERATOR_ROOT", "").rstrip("/")
        _generate(root, environ, argv[1], argv[2] if len(argv) == 4 else argv[1], to_kmsg)
    except Exception as e:  # noqa: BLE001  # whatever it is, the boot goes on and the verdict says what is missing
        _log(
            CRIT,
            "Failed to make units: %s: %s. No entry is kept on this boot. Please report this."
            % (type(e).__name__, e),
            to_kmsg,
        )
        return 1
    return 0
