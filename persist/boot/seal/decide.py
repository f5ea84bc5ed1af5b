# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether this boot seals: one pure function for the generator, the stage before PID 1,
persist-seal-begin.service and the verdict (docs/seal-boot.md, "Who knows of a request"). Boot-safe."""

from ..facts import words
from ..paths import SEAL_BEGUN, SEAL_DONE
from .request import (
    COMMAND_LINE,
    CREDENTIAL,
    KEY,
    LOCAL,
    NAMES,
    OLDEST,
    OUTSIDE,
    WAYS_OUT,
    Request,
    parse,
    parse_words,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .look import Seen

NONE, SEAL, REFUSED = "none", "seal", "refused"
# Words of the command line that take another target than default.target, or change what belongs to it.
_OTHER_BOOT = ("single", "-s", "s", "S", "1", "2", "3", "4", "5", "rescue", "emergency", "-b")
_OTHER_BOOT_KEYS = (
    "systemd.unit=",
    "--unit=",
    "systemd.run=",
    "systemd.mask=",
    "systemd.wants=",
)
# Of two that do not agree. The local one is taken away by us, and must not make the other one valid by that;
# of two from outside somebody takes one away, and has decided by that.
_TAKE_ONE_AWAY = "Take one of them away: the next boot then honours the other one."
_ASK_ONCE = "None of them counts from now on. Ask once, with an ID that is new."


class Answer:
    """``kind`` is none, seal or refused. ``requests`` are all that could be read, ``request`` the one that is
    honoured or refused, None where it could not be read; ``source`` where it comes from. ``code`` is a stable
    word for the rule that refused it, ``sentence`` says why, ``hint`` what to do."""

    __slots__ = ("kind", "request", "source", "code", "sentence", "hint", "requests")

    def __init__(self, kind: str, request: "Request | None" = None, source: str = "") -> None:
        self.kind = kind
        self.request = request
        self.source = source
        self.code = ""
        self.sentence = ""
        self.hint = ""
        self.requests: tuple[Request, ...] = ()


def other_boot(cmdline: str) -> str:
    """The word of a kernel command line that asks for another boot than the machine's usual one, or ''."""
    for word in words(cmdline):
        if word in _OTHER_BOOT or word.startswith(_OTHER_BOOT_KEYS):
            return word
    return ""


def _found(seen: "Seen") -> "tuple[list[Request], list[tuple[str, str]]]":
    """The requests that can be read, and (source, what is wrong) of those that cannot."""
    requests: list[Request] = []
    wrong: list[tuple[str, str]] = []
    asked = [word for word in words(seen.cmdline) if word == KEY or word.startswith(KEY + "=")]
    for source, there in ((LOCAL, seen.local), (COMMAND_LINE, asked), (CREDENTIAL, seen.credential)):
        if not there and there != b"":
            continue
        try:
            if source == LOCAL and seen.local_wrong:
                raise ValueError(seen.local_wrong)
            if isinstance(there, bytes):
                request = (
                    parse(there)
                    if source == LOCAL
                    else parse_words(there.decode("ascii", "replace").strip(" \t\r\n"), source)
                )
            elif len(there) > 1:
                raise ValueError("stands there %d times" % len(there))
            else:
                request = parse_words(there[0].partition("=")[2], source)
            requests.append(request)
        except ValueError as e:
            wrong.append((source, str(e)))
    return requests, wrong


def _is_another(request: Request, seen: "Seen") -> str:
    """Why a request is not for this machine, or ''. Before PID 1 a machine may have no id, and may be told
    which it gets."""
    unknown = seen.before_pid1 and not seen.machine_id
    if request.source in OUTSIDE:
        known = request.machine and request.machine in (seen.machine_id, seen.uuid)
        return "" if known or unknown else "it names another machine"
    if not unknown and request.machine_id != seen.machine_id:
        return "it was made on a machine with another machine-id"
    if request.uuid != seen.uuid:
        return "it was made on a machine with another SMBIOS UUID"
    return "" if request.machine_id or request.uuid else "it names no machine"


def _whole_boot(seen: "Seen") -> "tuple[str, str]":
    """What of this boot refuses every request: the code and why, or two empty strings."""
    if "persist=off" in words(seen.cmdline):
        return "persist-off", "persist=off is on the kernel command line"
    for text, where in (
        (seen.cmdline, "on the kernel command line"),
        (seen.efi, "in the EFI variable SystemdOptions"),
    ):
        word = other_boot(text)
        if word:
            return "another-boot", "'%s' %s asks for another boot" % (word, where)
    if seen.update:
        return "system-update", "%s is there, and asks for a boot that updates the system" % seen.update
    if seen.units:
        return "units", seen.units
    return "", ""


def _why_not(seen: "Seen", request: Request) -> "tuple[str, str]":
    """What refuses this one request: the code and why, or two empty strings."""
    another = _is_another(request, seen)
    if another:
        return "another-machine", another
    if request.source == LOCAL and seen.now - request.time > OLDEST:
        return "too-old", "it is older than an hour"
    if seen.done_wrong:
        return "done-unreadable", "%s %s, so nobody can tell whether it was honoured" % (
            SEAL_DONE,
            seen.done_wrong,
        )
    if request.id in seen.done:
        return "done", "it was honoured: its ID is in %s" % SEAL_DONE
    return "", ""


def _refused(source: str, request: "Request | None", code: str, why: str) -> Answer:
    answer = Answer(REFUSED, request, source)
    answer.code = code
    name = " (ID %s)" % request.id if request is not None else ""
    answer.sentence = "Not sealing, though %s%s asks for it: %s." % (NAMES[source], name, why)
    answer.hint = WAYS_OUT[source]
    return answer


def decide(seen: "Seen") -> Answer:
    """Whether this boot seals. The first rule that fits decides; where there are several requests, one that
    is refused is enough."""
    if seen.in_initrd or seen.container or seen.user_scope:
        return Answer(NONE)
    if seen.begun is not None:
        return _begun(seen.begun)
    if seen.ordinary:
        return Answer(NONE)
    requests, wrong = _found(seen)
    if not requests and not wrong:
        return Answer(NONE)
    answer = _decide(seen, requests, wrong)
    answer.requests = tuple(requests)
    return answer


def _begun(data: bytes) -> Answer:
    """The answer of a boot that has begun to seal, which nothing changes any more."""
    try:
        request = parse(data, begun=True)
    except ValueError as e:
        answer = Answer(SEAL, None, LOCAL)
        answer.sentence = "%s %s." % (SEAL_BEGUN, e)
        return answer
    return Answer(SEAL, request, request.source)


def _that_count(seen: "Seen", requests: "list[Request]") -> "list[Request]":
    """Those that are not over with, where there are any: what was honoured and comes back at each boot says
    nothing against what is asked now."""
    if seen.done_wrong:
        return requests
    return [request for request in requests if request.id not in seen.done] or requests


def _decide(seen: "Seen", requests: "list[Request]", wrong: "list[tuple[str, str]]") -> Answer:
    code, why = _whole_boot(seen)
    if code:
        return (
            _refused(requests[0].source, requests[0], code, why)
            if requests
            else _refused(wrong[0][0], None, code, why)
        )
    requests = _that_count(seen, requests)
    for request in requests:
        code, why = _why_not(seen, request)
        if code:
            return _refused(request.source, request, code, why)
    for source, text in wrong:
        return _refused(source, None, "malformed", "it " + text)
    if len({request.id for request in requests}) > 1:
        named = " and ".join(["%s (ID %s)" % (NAMES[r.source], r.id) for r in requests])
        answer = Answer(REFUSED, None, requests[0].source)
        answer.code = "two"
        answer.sentence = "Not sealing, though it is asked for: %s do not agree." % named
        answer.hint = _ASK_ONCE if requests[0].source == LOCAL else _TAKE_ONE_AWAY
        return answer
    for request in requests:
        if request.source == CREDENTIAL and seen.confidential:
            why = "in a confidential virtual machine the host is not believed"
            return _refused(request.source, request, "confidential", why)
    outside = [request for request in requests if request.source in OUTSIDE]
    first = (outside or requests)[0]
    return Answer(SEAL, first, first.source)
