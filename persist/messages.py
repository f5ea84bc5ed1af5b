# SPDX-License-Identifier: LGPL-2.1-or-later
"""MESSAGE_IDs of everything an administrator may meet in the journal. Never change one; the catalog has the
remedy.

A new one is ``uuid5(NAMESPACE, name)``, written out because computing them costs each service some
milliseconds. tests/unit/test_messages.py checks that, and that each has an entry in units/persist.catalog and
the other way round.
"""

from __future__ import annotations

NAMESPACE = "1b0e2c64-6a0e-4b52-9f7a-0a5d8b1f3c21"

MESSAGE_IDS: dict[str, str] = {
    "FAILED": "d2ea4fd929335ed6bf9d9a432c2728ad",  # something failed that has no message of its own
    # a registry or configuration file has a mistake: file, line, what to do
    "REGISTRY_PROBLEM": "7407f07e21e35929b5131282383436ba",
    # an entry that persist will not touch (fstab mounts it, it is /usr, ...)
    "ENTRY_REFUSED": "3376838a077e53c3bfc7f1b58876b5b7",
    # a path of an entry on which a filesystem of somebody else is mounted
    "ENTRY_ELSEWHERE": "b69a8f0ef5bf546689927fb689ed986a",
    # an entry that PID 1 reads was not mounted before it, and is not kept on this boot
    "ENTRY_NOT_IN_TIME": "6c115e755b665ad89553362ef8212950",
    "CLAIM_FOUND": "f0387b81724357f38ee7c975db6cd486",  # a disk with the magic header was accepted
    "CLAIM_REFUSED": "92474e9b2e285d26a3188b5da1952662",  # a disk with the magic header was left alone
    "FORMAT_STEP": "409b027544d75c03b5a1814faa205f28",  # progress of formatting
    "FORMAT_DONE": "b56f1b648a26534eabcb7c19ddca0e4a",  # the disk is formatted and the claim erased
    "FORMAT_FAILED": "611e092d9c0b544c8c0b7d48b8d99a08",  # formatting failed; the claim is still there
    "VOLUME_MOUNTED": "0fa81cbf9c9a5fc4a197d0fd2ceb2fb5",  # the state volume is mounted
    "VOLUME_MISSING": "65520e205df75bb6b70309bc34a59c04",  # no state volume was found
    # more than one filesystem claims to be the volume
    "VOLUME_AMBIGUOUS": "48d87fcc515650578db0fc17dfca9f7b",
    # a filesystem with our label on a bus that is not trusted
    "VOLUME_UNTRUSTED": "4bbaecc0b03c5a74ad35bc6fef210df8",
    "VOLUME_BROKEN": "8440ddfbb1a35a9aad5f97489b11a8cd",  # the volume was found and does not mount
    "VOLUME_FOREIGN": "a161ee18fe6e5644bff108003f0f25d8",  # a btrfs with our label that persist did not make
    # a disk is ours by its ids, and its filesystem cannot be read
    "VOLUME_UNREADABLE": "72777dab3b815a1f81cdfc797c443617",
    "VOLUME_OTHERS": "079335c5e64553d98f92d23665da8a75",  # another filesystem could be the volume, too
    # a blank disk takes the place of one that is lost by contract
    "VOLUME_REPLACED": "a956fd84eefd5ff58ff512d3ad999620",
    # what can be read of a volume that does not mount is shown read-only
    "VOLUME_RESCUE": "074f6cd04c75594ba6e322037b374a11",
    # what persist keeps on the volume is not root's own: it is not used
    "VOLUME_STRANGE": "2c0a32ffec045d779a12282a472f44d5",
    "VOLUME_READ_ONLY": "b99d57c3327655a58b352af2ec676c83",  # the volume is mounted read-only
    # the volume is mounted for writing, and nothing can be made on it
    "VOLUME_UNWRITABLE": "57adbca9aca05b04a10f1143593958b0",
    "EARLY": "8c7fc9a86d2c57bf9ce88374a4e19a83",  # what the stage before PID 1 did not do, or waited for
    "FALLBACK": "b2cba4805eb85abc910ee8baececd049",  # this boot runs without its volume
    "SEED_DONE": "6c41ea4270bb561cab32b57a8b3cb643",  # an entry was seeded
    "SEED_FAILED": "69daa2fbf7ab5ef6b96bbcf003546013",  # an entry could not be seeded
    # the path does not exist in the image: an empty one was made
    "SEED_SOURCE_MISSING": "e74735ba826a5d5b8ac0ff91f65f6395",
    "ENTRY_FAILED": "ea85a0e0622e5d6cbc06cfbcdf43599b",  # an entry that was seeded could not be mounted
    # the volume that is known is away: a bind entry is held read-only
    "ENTRY_STALE": "79da9eb22fb554acbc66c2570649658e",
    # content was already at its place on the volume and is used as it is
    "ENTRY_ADOPTED": "86669b358759559b86b73f9242af0099",
    # an entry keeps the form that it was seeded for, whatever it says now
    "ENTRY_AS_SEEDED": "dcd01708d9fb54b981e19f06de489b06",
    "ENTRY_CONVERTED": "768924df07405b209cb9464f341855f4",  # an entry has the form now that it says
    # a link into the volume was replaced by a file, which is on the volume now
    "LINK_TAKEN_BACK": "e4cc08af6538570fbafa2307601848dc",
    # a migration of kept data begins, or waits for another boot
    "MIGRATION_BEGUN": "8e006e6a5b625dcb96b1b1fee01927ef",
    "MIGRATION_DONE": "c233532fd6f15b95b8eed6fc57b8d2d3",  # it is done, and has its stamp
    # it failed, or must not run: its services stay down
    "MIGRATION_FAILED": "38dc794cd72352c297df3621c83887fb",
    # one was cut, and its data are again as they were before it
    "MIGRATION_RESTORED": "bc0b9c23401d5a409595a725af427ea7",
    "MEMBER_MISSING": "4b19d2c66cfc52b8b4134d88a241cc3d",  # the volume runs without a member
    # a member that did not see the last writes is left out
    "MEMBER_STALE": "43a67a27fa055ce191c65564321cd343",
    "MEMBER_SPLIT": "1be5f6ccc66b5b3e9cf3ec37d81ac3e3",  # a member that was written alone is left out
    "MEMBER_LOST": "c388b6ecd9fd5fe59ab0e411336772bd",  # a member went away while it was in use
    "HEAL_STARTED": "73fee07e261455fd89bcd4806fd0e6e1",  # healing of the volume began
    "HEAL_STEP": "ddd115fb095958be92b4ff2a1321c04b",  # progress of healing
    "HEAL_DONE": "743b728754665cbd8913787c2de216c0",  # the volume is whole again
    "HEAL_FAILED": "17f391cb44cf5e79be4b4bbb3f586a8b",  # healing cannot go on
    # a member of the volume has read, write or checksum errors
    "DEVICE_ERRORS": "a97b1a82d0c55386abd25b2b745e5f82",
    "SPACE_LOW": "b196013039265845974c25f8119c1864",  # the volume is nearly full
    "SPACE_RESERVE": "c5187a5832d15ca5b7deff99c2e5afd3",  # the volume was full and was grown into its reserve
    "VOLUME_RESIZED": "c0ab792759d557cbb56651dd97242224",  # the volume was grown or shrunk
    "SCRUB_DONE": "3d1cd796c7b15acc8b58197965d846da",  # all data of the volume was read and is good
    "SCRUB_ERRORS": "a8f891ea02685ce5be0aa9add2975812",  # reading all data of the volume found errors
    # a clone of a sealed machine has made something anew that it must not share
    "REGENERATED": "d2f7de2fdc2057a393d994c98ca82bcb",
    "REGENERATE_FAILED": "be3f2879e9ab59d992dcf9c01c103ffb",  # it could not
    "SEAL_STEP": "0378747f200c58bfbb36048611f49831",  # progress of a boot that seals the machine
    "SEAL_SCRIPT": "6e91dc6bfd745835aec9786c901d4772",  # what the operator script prints
    "SEAL_DONE": "0b9bbae58b555523bae35913cc0f3d23",  # the machine is sealed
    "SEAL_FAILED": "37bfa8123aa45b5389b75ac3f758a2f7",  # this boot does not seal
    # it was asked that this machine be sealed, and that was refused: the boot is an ordinary one
    "SEAL_REFUSED": "afc3f7e85d705318b90ddb4736f1705b",
    # a request to seal this machine was used up, and the machine is not sealed
    "SEAL_BEGUN": "0dc2c7e140a2575aa1f8a06fb2769a8d",
    "VERDICT_ONLINE": "460c8ac80e69501cadf23135453e0d0b",
    "VERDICT_DEGRADED": "b3ac59fb8e7952699486bbfea3a40a59",
    "VERDICT_VOLATILE": "4d228ee4ff0c58fe85fb339215419d45",
    "VERDICT_OFF": "2c4b9b1909bb5d1eb3561633809528cd",
}
