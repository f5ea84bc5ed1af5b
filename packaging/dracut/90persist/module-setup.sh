#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# dracut module: the glue of persist. Nothing else of persist is in the initrd, so neither a preset nor an upgrade needs a new one;
# modules for disks and filesystems are loaded from the image's own tree.
# shellcheck disable=SC2154  # dracut's variables

check() {
    [[ $mount_needs ]] && return 1
    require_binaries chroot || return 1
    return 0
}

depends() {
    # The unit is ordered after its services.
    echo dracut-systemd
    return 0
}

install() {
    inst_multiple chroot
    inst_script /usr/lib/persist/persist-stage
    inst_simple "$moddir/persist-stage.service" "$systemdsystemunitdir/persist-stage.service"
    $SYSTEMCTL -q --root "$initdir" add-wants initrd.target persist-stage.service
}
