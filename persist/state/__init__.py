# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is kept on the volume: seeds, and the verdict of a boot."""
