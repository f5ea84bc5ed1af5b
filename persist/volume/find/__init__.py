# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which filesystem is the volume, and why there is none."""
