# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the generator loads only where something asks for it. Boot-safe."""
