# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry's one-time copy from the image to the volume."""
