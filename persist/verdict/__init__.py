# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wish beside the machine: what this boot keeps."""
