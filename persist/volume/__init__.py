# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state volume: claim, format, find, mount, fall back."""
