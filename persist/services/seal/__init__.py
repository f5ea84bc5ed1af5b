# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the units of the boot that seals start (docs/seal-boot.md)."""
