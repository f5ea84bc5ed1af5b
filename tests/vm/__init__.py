# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real boots under QEMU: images, machines and the tests that use them."""
