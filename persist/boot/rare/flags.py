# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options= of an entry: the flags of its mount. Boot-safe."""

# Each with what it is about: of two about the same the last one counts, as for mount(8).
_ABOUT = {
    "suid": "suid",
    "nosuid": "suid",
    "dev": "dev",
    "nodev": "dev",
    "exec": "exec",
    "noexec": "exec",
    "noatime": "atime",
    "relatime": "atime",
    "strictatime": "atime",
    "nodiratime": "diratime",
}


def added(before: str, value: str) -> str:
    """The flags of a mount with those of one Options= added. Raises ValueError that says which word is
    wrong."""
    flags = {_ABOUT[word]: word for word in before.split(",")}
    for word in value.split(","):
        about = _ABOUT.get(word.strip())
        if about is None:
            if not value:
                raise ValueError("is empty")
            if " " in word.strip() or "\t" in word.strip():
                raise ValueError("has '%s', and commas stand between options, not blanks" % word.strip())
            raise ValueError("has '%s', which is none of %s" % (word.strip(), ", ".join(_ABOUT)))
        flags[about] = word.strip()
    return ",".join(flags.values())
