# SPDX-License-Identifier: LGPL-2.1-or-later
"""A tree that is to be sealed, looked at and not changed: it is data, and may be anybody's."""
