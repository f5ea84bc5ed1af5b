# SPDX-License-Identifier: LGPL-2.1-or-later
"""The devices of one btrfs: which belong together, which are there."""
