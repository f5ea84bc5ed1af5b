# SPDX-License-Identifier: LGPL-2.1-or-later
"""Systemd of both releases in systemd-nspawn: what needs PID 1, but no kernel, disk or initrd of its own."""
