# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the units start: one module for a unit."""
