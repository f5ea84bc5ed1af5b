# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine that is fit to be cloned: what must not be in its image is found, and wiped."""
