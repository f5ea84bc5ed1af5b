# SPDX-License-Identifier: LGPL-2.1-or-later
"""The volume at its place, or what stands in for it."""
