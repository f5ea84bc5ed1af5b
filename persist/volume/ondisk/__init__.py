# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bytes that we write on disks: the claim, the marks, the binding, the partition table, the store."""
