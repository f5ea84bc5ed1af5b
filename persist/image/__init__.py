# SPDX-License-Identifier: LGPL-2.1-or-later
"""On the host: an image is made of a machine's disk by letting a copy of that machine seal itself (package
persist-image-tools)."""
