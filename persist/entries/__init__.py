# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries that persist mounts itself, and the places of all of them on the volume."""
