# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one place that knows the version."""

VERSION = "0.1"
