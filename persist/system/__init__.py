# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel and its tools as they are: nothing here knows a volume, an entry or a verdict."""
