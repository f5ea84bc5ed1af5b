# SPDX-License-Identifier: LGPL-2.1-or-later
"""MESSAGE_IDs of everything an administrator may meet in the journal. Never change one; the catalog has the remedy.

tests/unit/test_messages.py checks that each has an entry in units/persist.catalog and the other way round.
"""

from __future__ import annotations

import uuid

_NAMESPACE = uuid.UUID("1b0e2c64-6a0e-4b52-9f7a-0a5d8b1f3c21")

NAMES = (
    "FAILED",              # something failed that has no message of its own
    "REGISTRY_PROBLEM",    # a registry or configuration file has a mistake: file, line, what to do
    "ENTRY_REFUSED",       # an entry that persist will not touch (fstab mounts it, it is /usr, ...)
    "CLAIM_FOUND",         # a disk with the magic header was accepted
    "CLAIM_REFUSED",       # a disk with the magic header was left alone
    "FORMAT_STEP",         # progress of formatting
    "FORMAT_DONE",         # the disk is formatted and the claim erased
    "FORMAT_FAILED",       # formatting failed; the claim is still there
    "VOLUME_MOUNTED",      # the state volume is mounted
    "VOLUME_MISSING",      # no state volume was found
    "VOLUME_AMBIGUOUS",    # more than one filesystem claims to be the volume
    "VOLUME_UNTRUSTED",    # a filesystem with our label on a bus that is not trusted
    "VOLUME_BROKEN",       # the volume was found and does not mount
    "VOLUME_RESCUE",       # what can be read of a volume that does not mount is shown read-only
    "VOLUME_READ_ONLY",    # the volume is mounted read-only
    "FALLBACK",            # this boot runs without its volume
    "SEED_DONE",           # an entry was seeded
    "SEED_FAILED",         # an entry could not be seeded
    "SEED_SOURCE_MISSING", # the path does not exist in the image: an empty one was made
    "ENTRY_FAILED",        # an entry that was seeded could not be mounted
    "ENTRY_STALE",         # the volume that is known is away: a bind entry is held read-only
    "ENTRY_ADOPTED",       # content was already at its place on the volume and is used as it is
    "MACHINE_ID_KEPT",     # the id of the running boot was written into the store
    "RELOADED",            # PID 1 was reloaded because /etc came late
    "MEMBER_MISSING",      # the volume runs without a member
    "MEMBER_STALE",        # a member that did not see the last writes is left out
    "MEMBER_SPLIT",        # a member that was written alone is left out
    "MEMBER_LOST",         # a member went away while it was in use
    "HEAL_STARTED",        # healing of the volume began
    "HEAL_STEP",           # progress of healing
    "HEAL_DONE",           # the volume is whole again
    "HEAL_FAILED",         # healing cannot go on
    "DEVICE_ERRORS",       # a member of the volume has read, write or checksum errors
    "SPACE_LOW",           # the volume is nearly full
    "SPACE_RESERVE",       # the volume was full and was grown into its reserve
    "VOLUME_RESIZED",      # the volume was grown or shrunk
    "SCRUB_DONE",          # all data of the volume was read and is good
    "SCRUB_ERRORS",        # reading all data of the volume found errors
    "VERDICT_ONLINE",
    "VERDICT_DEGRADED",
    "VERDICT_VOLATILE",
    "VERDICT_OFF",
)

MESSAGE_IDS: dict[str, str] = {name: uuid.uuid5(_NAMESPACE, name).hex for name in NAMES}
