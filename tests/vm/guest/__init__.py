# SPDX-License-Identifier: LGPL-2.1-or-later
"""What runs inside the guest."""
