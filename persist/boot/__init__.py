# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boot-safe half: what the generator runs. Imports only os, sys, stat, errno (see docs/architecture.md)."""
