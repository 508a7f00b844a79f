"""The files that Debian's packages would write when they are installed, for those a board needs.

Packages are only unpacked, since their programs cannot run on the machine that makes the image. So
accounts, name lookup, logins and enabled services are written here, as the packages' own scripts
write them on a new system; accounts of services are made by systemd-sysusers at the first start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeslm.flash.image.first_boot import FIRSTRUN
from edgeslm.flash.image.system import OWN_FIRST_BOOT
from edgeslm.flash.tree import Entry, Link, Tree

HOSTNAME = "edgeslm"
BOOT = "/boot/efi"
_BOOT_OPTIONS = "defaults,noatime,umask=077,nofail,x-systemd.device-timeout=10min"
"""Devices are found slowly on emulated boards."""
_UNITS = "/usr/lib/systemd/system"
_ENABLED = {
    "multi-user.target.wants": (
        "avahi-daemon.service",
        "systemd-networkd.service",
        "remote-fs.target",
    ),
    "sockets.target.wants": ("avahi-daemon.socket", "systemd-networkd.socket"),
    "sysinit.target.wants": ("systemd-resolved.service", "systemd-timesyncd.service"),
    "getty.target.wants": ("getty@tty1.service",),
    "timers.target.wants": ("fstrim.timer",),
}
_ALIASES = {
    "dbus-org.freedesktop.Avahi.service": "avahi-daemon.service",
    "dbus-org.freedesktop.network1.service": "systemd-networkd.service",
    "dbus-org.freedesktop.resolve1.service": "systemd-resolved.service",
    "dbus-org.freedesktop.timesync1.service": "systemd-timesyncd.service",
}
_FOLDERS = ("boot/efi", "media", "mnt", "opt", "srv", "usr/local/bin", "usr/local/lib")
_SYSUSERS = """\
u avahi - "Avahi mDNS daemon" /run/avahi-daemon
u messagebus - "System Message Bus" /nonexistent
u sshd - "sshd user" /run/sshd
"""
_NETWORK = """\
[Match]
Type=ether
Kind=!*

[Network]
DHCP=yes

[DHCPv4]
ClientIdentifier=mac
"""
_PAM = {
    "auth": "auth required pam_unix.so\n",
    "account": "account required pam_unix.so\n",
    "password": "password required pam_unix.so obscure yescrypt\n",
    "session": "session required pam_unix.so\nsession optional pam_umask.so\n",
}
_SSH = """\
[Service]
# No two boards may have the same keys, so each makes its own.
ExecStartPre=
ExecStartPre=/usr/bin/ssh-keygen -A
ExecStartPre=/usr/sbin/sshd -t
"""
_FIRST_BOOT_NAME = "edgeslm-first-boot.service"
_FIRST_BOOT_UNIT = f"""\
[Unit]
Description=What the board is told at its first start
ConditionPathExists={BOOT}/{FIRSTRUN}
RequiresMountsFor={BOOT}
DefaultDependencies=no
After=local-fs.target systemd-sysusers.service systemd-tmpfiles-setup.service
Before=basic.target systemd-networkd.service avahi-daemon.service ssh.service getty.target

[Service]
Type=oneshot
ExecStart=/bin/sh {BOOT}/{FIRSTRUN}

[Install]
WantedBy=sysinit.target
"""


@dataclass(frozen=True)
class Disk:
    """How the file systems are found.

    Attributes:
        root: The UUID of the root file system.
        boot: The volume id of the EFI system partition, 8 hex digits.
    """

    root: str
    boot: str

    @property
    def boot_uuid(self) -> str:
        """As fstab has it."""
        return f"{self.boot[:4]}-{self.boot[4:]}".upper()


def configuration(shipped: Mapping[str, bytes], disk: Disk) -> Tree:
    """All files that configure the system.

    Args:
        shipped: The bytes of `SHIPPED`, files of the packages that a system's own are made from.
        disk: What is mounted where.
    """
    folders = [Entry(name, None, 0o755) for name in _FOLDERS]
    return Tree.of([*_accounts(shipped), *_files(shipped, disk), *_services(), *folders])


_PASSWD, _GROUP = "usr/share/base-passwd/passwd.master", "usr/share/base-passwd/group.master"
_NSSWITCH, _SSHD = "usr/share/libc-bin/nsswitch.conf", "usr/share/openssh/sshd_config"
_PROFILE, _BASHRC = "usr/share/base-files/profile", "usr/share/base-files/dot.bashrc"
SHIPPED = (_PASSWD, _GROUP, _NSSWITCH, _SSHD, _PROFILE, _BASHRC)


def _accounts(shipped: Mapping[str, bytes]) -> list[Entry]:
    """Debian's own accounts; nobody can log in."""
    passwd, group = shipped[_PASSWD].decode(), shipped[_GROUP].decode()
    names = [line.partition(":")[0] for line in passwd.splitlines()]
    groups = [line.split(":") for line in group.splitlines()]
    shadow_gid = next(int(fields[2]) for fields in groups if fields[0] == "shadow")
    locked = "".join(f"{name}:*:20000:0:99999:7:::\n" for name in names)
    return [
        Entry("etc/passwd", passwd.replace(":*:", ":x:").encode()),
        Entry("etc/group", group.replace(":*:", ":x:").encode()),
        Entry("etc/shadow", locked.encode(), 0o640, gid=shadow_gid),
        Entry("etc/gshadow", _locked_groups(groups).encode(), 0o640, gid=shadow_gid),
    ]


def _locked_groups(groups: list[list[str]]) -> str:
    return "".join(f"{fields[0]}:*::\n" for fields in groups)


def _files(shipped: Mapping[str, bytes], disk: Disk) -> list[Entry]:
    fstab = (
        f"UUID={disk.root} / ext4 defaults,noatime,x-systemd.growfs 0 1\n"
        f"UUID={disk.boot_uuid} {BOOT} vfat {_BOOT_OPTIONS} 0 0\n"
    )
    texts = {
        "etc/hostname": f"{HOSTNAME}\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n::1 localhost\n",
        "etc/fstab": fstab,
        "etc/machine-id": "",  # empty: each board makes its own, and nobody is asked anything
        "etc/default/locale": "LANG=C.UTF-8\n",
        "etc/locale.conf": "LANG=C.UTF-8\n",
        "etc/nsswitch.conf": shipped[_NSSWITCH].decode(),
        "etc/ssh/sshd_config": shipped[_SSHD].decode(),
        "etc/profile": shipped[_PROFILE].decode(),
        "root/.bashrc": shipped[_BASHRC].decode(),
        "etc/systemd/network/80-wired.network": _NETWORK,
        "etc/repart.d/50-root.conf": "[Partition]\nType=root-arm64\n",
        "usr/lib/sysusers.d/edgeslm-base.conf": _SYSUSERS,
        "etc/systemd/system/ssh.service.d/keys.conf": _SSH,
        f"etc/systemd/system/{_FIRST_BOOT_NAME}": _FIRST_BOOT_UNIT,
        OWN_FIRST_BOOT: f"{BOOT}/{FIRSTRUN}\n",
        "var/lib/dpkg/status": "",
    }
    texts |= {f"etc/pam.d/common-{kind}": text for kind, text in _PAM.items()}
    texts["etc/pam.d/common-session-noninteractive"] = _PAM["session"]
    texts["etc/pam.d/common-session"] += "session optional pam_systemd.so\n"
    return [
        *(Entry(path, text.encode()) for path, text in texts.items()),
        Entry("etc/resolv.conf", Link("../run/systemd/resolve/stub-resolv.conf"), 0o777),
        Entry("etc/localtime", Link("/usr/share/zoneinfo/Etc/UTC"), 0o777),
        Entry("usr/bin/awk", Link("mawk"), 0o777),
        Entry("root", None, 0o700),
    ]


def _services() -> list[Entry]:
    """The links that `systemctl enable` would make."""
    etc = "etc/systemd/system"
    links = {
        f"{etc}/{target}/{name}": f"{_UNITS}/{name.replace('@tty1', '@')}"
        for target, names in _ENABLED.items()
        for name in names
    }
    links |= {f"{etc}/{alias}": f"{_UNITS}/{name}" for alias, name in _ALIASES.items()}
    links[f"{etc}/systemd-hwdb-update.service"] = "/dev/null"  # minutes; of use for desktops
    links[f"{etc}/sysinit.target.wants/{_FIRST_BOOT_NAME}"] = f"/{etc}/{_FIRST_BOOT_NAME}"
    return [Entry(path, Link(target), 0o777) for path, target in links.items()]
