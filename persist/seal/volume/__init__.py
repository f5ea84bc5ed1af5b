# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state volume of a machine that seals itself, where it is asked to be sealed, too."""
