# SPDX-License-Identifier: LGPL-2.1-or-later
"""The boot in which a machine seals itself (docs/seal-boot.md)."""
