# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boot-safe half: what the generator runs while PID 1 waits. Imports only posix, sys, errno and itself.

``os`` itself would cost a millisecond of the twelve that a hundred entries take, for abstract base classes that nobody here
uses. ``posix`` is the part of it that talks to the kernel, built into the interpreter, and loaded already when we begin.
"""
