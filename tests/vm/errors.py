# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two ways a virtual machine test can go wrong."""

from __future__ import annotations


class MachineError(Exception):
    """The machine itself misbehaved: it died, panicked, hung or never came up."""


class EmergencyMode(MachineError):
    """The guest ended in emergency or rescue mode, or in the initramfs shell."""


class CommandFailed(AssertionError):
    """A command in the guest did not do what the test asserted."""
