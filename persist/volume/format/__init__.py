# SPDX-License-Identifier: LGPL-2.1-or-later
"""A blank claimed disk becomes a volume, or a member of one."""
