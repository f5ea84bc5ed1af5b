# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a test image is made of: packages, files and units, as data."""

from __future__ import annotations

import shlex
from pathlib import Path

SUITES = ("bookworm", "trixie")
INITRDS = ("initramfs-tools", "dracut")

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "linux-image-amd64",
    "openssh-server",
    "cron",
    "btrfs-progs",
    "dosfstools",
    "fdisk",
    "e2fsprogs",
    "util-linux-extra",
    "acl",
    "attr",
    "libcap2-bin",
    "kmod",
    "login",
    "passwd",
    "libpam-systemd",
    "systemd-timesyncd",
    "python3",
    "python3-systemd",
    "python3-pyudev",
    "python3-dbus-next",
    "iproute2",
    "procps",
    "less",
    "zstd",
)

# No virtual machine here has any of this hardware; without it the tree is half the size and so is the initrd.
ABSENT = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/bug/*",
    *(
        f"{lib}/modules/*/kernel/{part}/*"
        for lib in ("/lib", "/usr/lib")
        for part in (
            "sound",
            "drivers/gpu",
            "drivers/media",
            "drivers/net/wireless",
            "drivers/infiniband",
            "drivers/isdn",
            "drivers/net/ethernet",
            "drivers/staging",
            "drivers/iio",
            "drivers/bluetooth",
            "drivers/hwmon",
            "drivers/input/touchscreen",
            "drivers/comedi",
            "drivers/accel",
            "net/wireless",
            "net/mac80211",
            "drivers/net/can",
            "drivers/net/usb",
            "drivers/usb/gadget",
            "drivers/usb/serial",
            "drivers/platform",
            # Loaded at each boot for what QEMU has and nobody here uses.
            "arch/x86/crypto",
            "arch/x86/events",
            "arch/x86/kvm",
            "drivers/ata",
            "drivers/char/tpm",
            "drivers/cpufreq",
            "drivers/crypto",
            "drivers/edac",
            "drivers/i2c",
            "drivers/input",
            "drivers/misc/vmw_vmci",
            "net/vmw_vsock",
            # Never loaded, and megabytes.
            "drivers/cdrom",
            "drivers/mmc",
            "drivers/mtd",
            "drivers/net/phy",
            "drivers/thermal",
            "drivers/usb/misc",
            "drivers/video",
            "net/bridge",
            "net/netfilter",
        )
    ),
    *(f"{lib}/modules/*/kernel/drivers/block/floppy.ko*" for lib in ("/lib", "/usr/lib")),
)

VIRTIO = ("virtio_console", "virtio_blk", "virtio_pci")
# MODULES=most makes the initrd in 20 s and more, and no machine here needs any of the rest.
EARLY_MODULES = (*VIRTIO, "ext4")
# In the initrd, and loaded where there is what they are for.
AT_HAND = ("virtio_scsi", "sd_mod", "usb_storage", "uas", "xhci_pci")

# Left to itself it takes 795 modules (Debian 13): half a minute to make, and each boot unpacks all of it.
DRACUT = f"dracut --force --drivers '{' '.join((*EARLY_MODULES, *AT_HAND))}'"

# Written before the first package that would build an initrd is installed.
INITRD_CONFIG = {
    "usr/share/initramfs-tools/conf.d/persist-test": "MODULES=list\nCOMPRESS=zstd\n",
    "usr/share/initramfs-tools/modules.d/persist-test": "".join(f"{module}\n" for module in EARLY_MODULES),
    "usr/share/initramfs-tools/hooks/persist-test": '#!/bin/sh\n[ "$1" != prereqs ] || exit 0\n'
    f". /usr/share/initramfs-tools/hook-functions\nmanual_add_modules {' '.join(AT_HAND)}\n",
    "usr/lib/dracut/dracut.conf.d/90-persist-test.conf": 'hostonly="no"\nadd_drivers+=" '
    + " ".join((*VIRTIO, "virtio_scsi"))
    + ' "\n',
}

AGENT_PATH = "usr/lib/persist-test/agent.py"

AGENT_UNIT = """[Unit]
Description=Agent of the persist VM tests
DefaultDependencies=no
IgnoreOnIsolate=yes
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/python3 -ISB /usr/lib/persist-test/agent.py
Restart=always
RestartSec=200ms
StandardInput=null
StandardOutput=null
StandardError=kmsg
OOMScoreAdjust=-900
"""

HOSTKEYS_UNIT = """[Unit]
Description=SSH host keys of this test machine
Before=ssh.service
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key
ConditionPathIsReadWrite=/etc/ssh
# An RSA key alone would take seconds in software emulation.

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
"""

SYSTEMD = "/usr/lib/systemd"
UNITS = "usr/lib/systemd/system"

# All of it below /usr, so that no overlay of /etc can hide it. Nothing stops the agent at shutdown but the
# last SIGTERM that systemd sends to every process before it unmounts what is left.
GUEST_FILES = {
    f"{UNITS}/persist-test-agent.service": AGENT_UNIT,
    f"{UNITS}/persist-test-hostkeys.service": HOSTKEYS_UNIT,
}
GUEST_LINKS = {
    f"{UNITS}/sysinit.target.wants/persist-test-agent.service": "../persist-test-agent.service",
    f"{UNITS}/emergency.target.wants/persist-test-agent.service": "../persist-test-agent.service",
    f"{UNITS}/ssh.service.wants/persist-test-hostkeys.service": "../persist-test-hostkeys.service",
}


def _guest(name: str) -> str:
    """The text of a program that runs in the guest."""
    return (Path(__file__).parent / "guest" / name).read_text(encoding="utf-8")


# What each boot would start for nothing; in software emulation each process is a good part of a second.
GENERATORS = (
    "bless-boot",
    "cryptsetup",
    "debug",
    "hibernate-resume",
    "integritysetup",
    "rc-local",
    "ssh",
    "system-update",
    "sysv",
    "tpm2",
    "veritysetup",
)
IDLE_UNITS = (
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@.service",
    "getty-static.service",
    "modprobe@.service",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-hwdb-update.service",
    "systemd-pcr*.service",
    "systemd-tpm2-setup*.service",
    "systemd-udev-load-credentials.service",
    "systemd-update-utmp*.service",
)
# Rules and the database for hardware that is none of ours; an event costs what its rules cost.
UDEV_RULES = (
    "60-autosuspend",
    "60-cdrom_id",
    "60-dmi-id",
    "60-drm",
    "60-evdev",
    "60-fido-id",
    "60-infiniband",
    "60-input-id",
    "60-persistent-alsa",
    "60-persistent-input",
    "60-persistent-storage-mtd",
    "60-persistent-storage-tape",
    "60-persistent-v4l",
    "60-sensor",
    "70-camera",
    "70-joystick",
    "70-memory",
    "70-mouse",
    "70-power-switch",
    "70-touchpad",
    "75-net-description",
    "75-probe_mtd",
    "78-sound-card",
    "90-iocost",
    "96-e2scrub",
)

# Settings of the plain system, run in the chroot of the base stage.
BASE_SETUP = (
    "passwd --delete root",
    "echo persist-test >/etc/hostname",
    "printf '127.0.0.1 localhost persist-test\\n::1 localhost\\n' >/etc/hosts",
    "echo LANG=C.UTF-8 >/etc/default/locale",
    "rm -f /etc/ssh/ssh_host_* /etc/resolv.conf",
    "systemctl disable apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service",
    # Python's, which systemd-binfmt.service would enter at each boot, for a second and more.
    "rm /usr/lib/binfmt.d/python3*.conf",
    f"rm -f {' '.join(f'{SYSTEMD}/system-generators/systemd-{name}-generator' for name in GENERATORS)}",
    f"cd {SYSTEMD}/system && rm -f {' '.join(IDLE_UNITS)}",
    f"cd /usr/lib/udev && rm -f hwdb.bin {' '.join(f'rules.d/{name}.rules' for name in UDEV_RULES)}",
    f"python3 -c {shlex.quote(_guest('modules.py'))}",
    'for version in $(ls /usr/lib/modules); do depmod "$version" && update-initramfs -u -k "$version"; done',
)


def agent_source() -> str:
    """The text of the guest's agent."""
    return _guest("agent.py")


def packages(suite: str, extra: tuple[str, ...]) -> tuple[str, ...]:
    """The package list of the base stage. Both tools that make initrds: dracut-core installs beside the
    other, and a base costs a minute. Where there is busybox its shell is that of the initrd, else klibc's."""
    shell = ("busybox",) if suite == "trixie" else ()
    return tuple(dict.fromkeys((*PACKAGES, "initramfs-tools", "dracut-core", *shell, *extra)))
