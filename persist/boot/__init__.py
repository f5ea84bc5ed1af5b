# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boot-safe half: what the generator runs while PID 1 waits. Imports only posix, sys, errno and itself.

``os`` itself would cost a millisecond of the eight that a hundred entries take, for abstract base classes
that nobody here uses. ``posix`` is the part of it that talks to the kernel, built into the interpreter, and
loaded already when we begin.
"""

import posix
import sys

_UNCHECKED = (
    b"\1\0\0\0"  # PEP 552: compiled where it was installed, from a source that is not to be looked at again
)
_LONGEST = 1 << 16


def preload(*names: str) -> None:
    """Load modules of this package from their compiled files, each after those that it imports: for the
    generator, where importlib takes longer to find a module than it takes to run it. ``rare/__init__`` comes
    before ``rare/net``, say.

    Only what importlib would take without a look at the source. It is asked for all else: a checkout, another
    interpreter's files, none.
    """
    if __name__ + "." + names[-1].replace("/", ".") in sys.modules:
        return
    try:
        from _frozen_importlib import ModuleSpec
        from _frozen_importlib_external import MAGIC_NUMBER
        from marshal import loads
    except ImportError:
        return  # a Python to come

    for name in names:
        directory, _, last = name.rpartition("/")
        package = __name__ + "." + directory if directory else __name__
        full = package if last == "__init__" else package + "." + last
        if full in sys.modules:
            continue
        at = __path__[0] + "/" + directory if directory else __path__[0]
        file = "%s/__pycache__/%s.%s.pyc" % (at, last, sys.implementation.cache_tag)
        try:
            fd = posix.open(file, posix.O_RDONLY | posix.O_CLOEXEC)
            try:
                data = posix.read(fd, _LONGEST)
            finally:
                posix.close(fd)
        except OSError:
            return
        if data[:8] != MAGIC_NUMBER + _UNCHECKED or len(data) == _LONGEST:
            return
        module = type(sys)(full)
        module.__package__ = package
        module.__spec__ = ModuleSpec(full, None, origin=file)
        module.__file__ = file
        if last == "__init__":
            module.__path__ = [at]
            globals()[directory] = module
        else:
            setattr(sys.modules[package], last, module)
        sys.modules[full] = module
        exec(loads(memoryview(data)[16:]), module.__dict__)
