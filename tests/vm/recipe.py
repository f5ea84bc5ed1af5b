# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a test image is made of: packages, files and units, as data."""

from __future__ import annotations

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
        )
    ),
)

VIRTIO = ("virtio_console", "virtio_blk", "virtio_pci", "virtio_scsi")
# MODULES=most makes the initrd in 20 s and more, and no machine here needs any of the rest.
EARLY_MODULES = (*VIRTIO, "ext4", "sd_mod", "usb_storage", "uas", "xhci_pci")

# Written before the first package that would build an initrd is installed.
INITRD_CONFIG = {
    "usr/share/initramfs-tools/conf.d/persist-test": "MODULES=list\nCOMPRESS=zstd\n",
    "usr/share/initramfs-tools/modules.d/persist-test": "".join(f"{module}\n" for module in EARLY_MODULES),
    "usr/lib/dracut/dracut.conf.d/90-persist-test.conf": 'hostonly="no"\nadd_drivers+=" '
    + " ".join(VIRTIO)
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
)


def agent_source() -> str:
    """The text of the guest's agent."""
    return (Path(__file__).parent / "guest" / "agent.py").read_text(encoding="utf-8")


def packages(suite: str, extra: tuple[str, ...]) -> tuple[str, ...]:
    """The package list of the base stage. Both tools that make initrds: dracut-core installs beside the
    other, and a base costs a minute. Where there is busybox its shell is that of the initrd, else klibc's."""
    shell = ("busybox",) if suite == "trixie" else ()
    return tuple(dict.fromkeys((*PACKAGES, "initramfs-tools", "dracut-core", *shell, *extra)))
