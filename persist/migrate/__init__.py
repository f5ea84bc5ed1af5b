# SPDX-License-Identifier: LGPL-2.1-or-later
"""What has to be done once to data that an older image has left: what the volume knows of it
(docs/migrations.md)."""
