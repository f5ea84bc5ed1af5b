# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known of a machine before it boots."""
