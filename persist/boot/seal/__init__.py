# SPDX-License-Identifier: LGPL-2.1-or-later
"""The boot that seals: who asks for it, and what the generator does then. Boot-safe; loaded only where
somebody asks."""
