# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where things are, and systemd's escaping of paths. Boot-safe."""

VOLUME = "/run/persist/volume"
RUN = "/run/persist"
LOWER = "/run/persist/lower"
IMAGE = "/run/persist/image"
STORE = VOLUME + "/.persist"
EARLY = "/run/persist/early"
MOUNT_ENTRIES = "/run/persist/mount-entries"
PERSISTENT = "/run/persist/persistent"

UNIT_NAME_MAX = 255  # unit-name.h; also NAME_MAX, the store uses the same names

_PLAIN = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:_.")


def escape(path: str) -> str:
    """A normalised absolute path in the form that unit names have (systemd.unit(5), systemd-escape --path)."""
    body = path.strip("/")
    if not body:
        return "-"
    if body.isascii() and body.replace("/", "").isalnum():
        return body.replace("/", "-")
    out = []
    for i, c in enumerate(body):
        if c == "/":
            out.append("-")
        elif c in _PLAIN and not (c == "." and i == 0):
            out.append(c)
        else:
            out.extend(["\\x%02x" % b for b in c.encode("utf-8", "surrogateescape")])
    return "".join(out)


def unescape(name: str) -> str:
    """The path behind an escaped name, as ``systemd-escape --unescape --path``. Raises ValueError on a bad escape."""
    if name == "-":
        return "/"
    out = bytearray(b"/")
    i = 0
    while i < len(name):
        c = name[i]
        if c == "-":
            out += b"/"
        elif c == "\\":
            if name[i + 1 : i + 2] != "x":
                raise ValueError("bad escape in '%s'" % name)
            out.append(int(name[i + 2 : i + 4], 16))
            i += 3
        else:
            out += c.encode("utf-8", "surrogateescape")
        i += 1
    return out.decode("utf-8", "surrogateescape")


def specifiers(text: str) -> str:
    """Text that systemd takes as it is: ``%`` is doubled (systemd.unit(5), specifiers)."""
    return text.replace("%", "%%") if "%" in text else text


def quoted(text: str) -> str:
    """One word of a setting that systemd splits at blanks (systemd.syntax(7), quoting); specifiers escaped too."""
    text = specifiers(text).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text + '"' if " " in text or "\t" in text or "'" in text or '"' in text or ";" in text else text


def overlay_option(path: str) -> str:
    """A path as value of lowerdir=, upperdir= or workdir= in a list of options for mount(8).

    overlayfs takes backslashes away (``ovl_unescape()``) and splits lowerdir= at colons, libmount splits at commas
    outside of double quotes. Paths with a double quote or a comma are refused for overlays by the registry.
    """
    if "\\" in path:
        path = path.replace("\\", "\\\\")
    if ":" in path:
        path = path.replace(":", "\\:")
    return path


def parents(path: str) -> list[str]:
    """All strict ancestors of an absolute path but for ``/``, the longest first."""
    out = []
    at = path.rfind("/")
    while at > 0:
        path = path[:at]
        out.append(path)
        at = path.rfind("/")
    return out
