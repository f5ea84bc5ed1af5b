# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of the registry that persistctl writes: presets by name, paths one by one."""
