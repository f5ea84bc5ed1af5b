# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stage before PID 1, run in the mounted root (docs/before-pid1.md)."""
