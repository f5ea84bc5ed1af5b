# SPDX-License-Identifier: LGPL-2.1-or-later
"""persist: state that survives on systems whose root does not."""
