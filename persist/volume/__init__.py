# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state volume: what this boot made of it, and whether what is written anywhere is kept."""
