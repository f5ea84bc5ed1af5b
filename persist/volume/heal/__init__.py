# SPDX-License-Identifier: LGPL-2.1-or-later
"""A volume that is not whole becomes whole."""
