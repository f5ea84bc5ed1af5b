# SPDX-License-Identifier: LGPL-2.1-or-later
"""A volume that is full, or whose disk has grown."""
