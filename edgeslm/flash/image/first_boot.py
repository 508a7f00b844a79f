"""Files on the boot partition that a system reads at its first start. Pure.

What they say, and in which order, follows what Raspberry Pi's own programs write and read:
rpi-imager (src/customization_generator.cpp, src/downloadthread.cpp: `systemd.run=` and
`ds=nocloud`), raspberrypi-sys-mods (imager_custom, firstboot), userconf-pi (userconf) and
raspi-config. Unlike rpi-imager the script is named by where the boot partition really is mounted,
and it removes only its own words from cmdline.txt: setting the Wi-Fi's country adds one there.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping

from edgeslm.errors import InvalidImage, Unsupported
from edgeslm.flash.image.settings import Settings, Wifi
from edgeslm.flash.image.system import CMDLINE, IMAGER_CUSTOM, FirstBoot, System

FIRSTRUN = "firstrun.sh"
_USERCONF = "/usr/lib/userconf-pi/userconf"
_CUSTOM = f"/{IMAGER_CUSTOM}"
_DEFAULT_BOOT, _OWN_BOOT = "/boot/firmware", "/boot/efi"
_ONCE = "systemd.unit=kernel-command-line.target"


def first_boot_files(
    settings: Settings, system: System, cmdline: str | None
) -> Mapping[str, bytes]:
    """What has to lie on the boot partition; nothing if there is nothing to tell.

    Args:
        settings: What the board is told.
        system: What the image holds.
        cmdline: Its cmdline.txt: what the kernel is told; None where there is none.

    Raises:
        Unsupported: the system has no way of being told.
        InvalidImage: its cmdline.txt is not one line.
    """
    if not settings.any:
        return {}
    if system.first_boot is FirstBoot.NONE:
        raise Unsupported(
            f"{system.name} has no way of being told settings at its first start that is known",
            hint="Use Raspberry Pi OS, or leave --hostname, --user, --wifi and the like out.",
        )
    if system.first_boot is FirstBoot.OWN:
        return {FIRSTRUN: own_firstrun(settings, system.boot or _OWN_BOOT).encode()}
    if system.first_boot is FirstBoot.SYSTEMD:
        boot = system.boot or _DEFAULT_BOOT
        script = firstrun(settings, boot)
        words = [
            f"systemd.run={boot}/{FIRSTRUN}",
            "systemd.run_success_action=reboot",
            _ONCE,
        ]
        line = with_words(cmdline or "", ("systemd.run", _ONCE), words)
        return {FIRSTRUN: script.encode(), CMDLINE: line.encode()}
    return _cloud_init_files(settings, cmdline)


def with_words(cmdline: str, prefixes: tuple[str, ...], words: list[str]) -> str:
    """A kernel command line with other words at its end; those with one of the prefixes go.

    Raises:
        InvalidImage: it is not one line.
    """
    lines = cmdline.strip().splitlines()
    if len(lines) != 1:
        raise InvalidImage(f"{CMDLINE} of the image is not one line", hint="Use another image.")
    kept = [word for word in lines[0].split() if not word.startswith(prefixes)]
    return " ".join([*kept, *words]) + "\n"


def firstrun(settings: Settings, boot: str) -> str:
    """The script that systemd runs once instead of starting the system, before it reboots."""
    commands = [
        *_named(settings),
        *_logins(settings),
        *([] if settings.wifi is None else [_wlan(settings.wifi)]),
        *_places(settings),
        f"rm -f {boot}/{FIRSTRUN}",
        f"sed -i 's| systemd\\.run[^ ]*||g;s| {_ONCE}||g' {boot}/{CMDLINE}",
        "exit 0",
    ]
    return "\n".join(["#!/bin/sh", "# Written by edgeslm; runs once.", "set +e", "", *commands, ""])


def _named(settings: Settings) -> list[str]:
    return [] if settings.hostname is None else [f"{_CUSTOM} set_hostname {settings.hostname}"]


def _logins(settings: Settings) -> list[str]:
    """The user first, so that the keys come into the home folder's last place."""
    commands = []
    if settings.user is not None:
        hashed = shlex.quote(settings.password_hash or "")
        commands.append(f"{_USERCONF} {settings.user} {hashed}")
    if settings.ssh_server:
        how = "-p" if settings.ssh_passwords else "-k"
        keys = " ".join(map(shlex.quote, settings.ssh_keys))
        commands.append(f"{_CUSTOM} enable_ssh {how} {keys}".rstrip())
    return commands


def _wlan(wifi: Wifi) -> str:
    """imager_custom puts the name into a key file of NetworkManager as it is; see there."""
    name = wifi.ssid.replace("\\", "\\\\")
    name = re.sub("^ +| +$", lambda found: "\\s" * len(found[0]), name)
    return " ".join([_CUSTOM, "set_wlan", *map(shlex.quote, (name, wifi.key or "", wifi.country))])


def _places(settings: Settings) -> list[str]:
    commands = []
    if settings.locale is not None:
        commands.append(f"raspi-config nonint do_change_locale {_full_locale(settings.locale)}")
    if settings.keyboard is not None:
        commands.append(f"{_CUSTOM} set_keymap {settings.keyboard}")
    if settings.timezone is not None:
        commands.append(f"{_CUSTOM} set_timezone {settings.timezone}")
    return commands


def _full_locale(locale: str) -> str:
    if ".UTF-8" in locale:
        return locale
    language, at, variant = locale.partition("@")
    return f"{language}.UTF-8{at}{variant}"


def own_firstrun(settings: Settings, boot: str) -> str:
    """The script that an image made from Debian's packages runs once, early in its first start.

    Raises:
        Unsupported: it has no firmware for radios, no languages and no keyboards.
    """
    if settings.wifi or settings.locale or settings.keyboard:
        raise Unsupported(
            "an image made from Debian's packages has no Wi-Fi, languages or keyboards",
            hint="Use Raspberry Pi OS, or leave --wifi, --locale and --keyboard out.",
        )
    commands = [*_own_names(settings), *_own_user(settings)]
    if settings.ssh_server:
        passwords = "yes" if settings.ssh_passwords else "no"
        told = "/etc/ssh/sshd_config.d/edgeslm.conf"
        commands += [
            f"echo PasswordAuthentication {passwords} > {told}",
            "systemctl enable --no-reload ssh.service",
            "systemctl start --no-block ssh.service",
        ]
    commands.append(f"rm -f {boot}/{FIRSTRUN}")
    return "\n".join(["#!/bin/sh", "# Written by edgeslm; runs once.", "", *commands, ""])


def _own_names(settings: Settings) -> list[str]:
    commands = []
    if settings.hostname is not None:
        commands += [
            f"echo {settings.hostname} > /etc/hostname",
            f"sed -i 's/^127.0.1.1 .*/127.0.1.1 {settings.hostname}/' /etc/hosts",
            f"hostname {settings.hostname}",
        ]
    if settings.timezone is not None:
        commands.append(f"ln -sf /usr/share/zoneinfo/{settings.timezone} /etc/localtime")
    return commands


def _own_user(settings: Settings) -> list[str]:
    """Who has no password may become root without one, as nobody else could."""
    user, hashed = settings.user, settings.password_hash
    if user is None:
        return []
    password = [] if hashed is None else ["-p", shlex.quote(hashed)]
    commands = [" ".join(["useradd", "-m", "-s", "/bin/bash", "-G", "sudo", *password, user])]
    if hashed is None:
        commands.append(f"echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/edgeslm")
    if settings.ssh_keys:
        keys = " ".join(map(shlex.quote, settings.ssh_keys))
        commands += [
            f"install -d -m 700 -o {user} -g {user} /home/{user}/.ssh",
            f"printf '%s\\n' {keys} > /home/{user}/.ssh/authorized_keys",
            f"chown {user}: /home/{user}/.ssh/authorized_keys",
        ]
    return commands


def _cloud_init_files(settings: Settings, cmdline: str | None) -> Mapping[str, bytes]:
    files = {"user-data": user_data(settings).encode()}
    if settings.wifi is not None:
        files["network-config"] = network_config(settings.wifi).encode()
    told = hashlib.sha256(b"\0".join(files.values())).hexdigest()
    instance = f"edgeslm-{told[:16]}"  # another one for other settings: cloud-init reads them then
    files["meta-data"] = f"dsmode: local\ninstance-id: {instance}\n".encode()
    if cmdline is not None:
        files[CMDLINE] = with_words(cmdline, ("ds=",), [f"ds=nocloud;i={instance}"]).encode()
    return files


def user_data(settings: Settings) -> str:
    """Everything but the network, in cloud-init's form."""
    lines = ["#cloud-config"]
    if settings.hostname is not None:
        lines += [f"hostname: {_quoted(settings.hostname)}", "manage_etc_hosts: true"]
    if settings.locale is not None:
        lines.append(f"locale: {_quoted(_full_locale(settings.locale))}")
    if settings.timezone is not None:
        lines.append(f"timezone: {_quoted(settings.timezone)}")
    if settings.keyboard is not None:
        lines += ["keyboard:", "  model: pc105", f"  layout: {_quoted(settings.keyboard)}"]
    lines += _user(settings)
    if settings.ssh_server:
        lines.append(f"ssh_pwauth: {'true' if settings.ssh_passwords else 'false'}")
        lines += ["runcmd:", "- [systemctl, enable, --now, ssh]"]
    return "\n".join([*lines, ""])


def _user(settings: Settings) -> list[str]:
    """The system's own first user under another name, with its groups.

    `sudo: null` keeps cloud-init from giving that user all rights without a password; but who has
    no password could not become root at all.
    """
    if settings.user is None:
        return []
    lines = ["user:", f"  name: {_quoted(settings.user)}", "  shell: /bin/bash"]
    if settings.password_hash is None:
        lines.append("  lock_passwd: true")
    else:
        lines += ["  lock_passwd: false", f"  passwd: {_quoted(settings.password_hash)}"]
        lines.append("  sudo: null")
    if settings.ssh_keys:
        lines.append("  ssh_authorized_keys:")
        lines += [f"  - {_quoted(key)}" for key in settings.ssh_keys]
    return lines


def network_config(wifi: Wifi) -> str:
    """The network in netplan's form; the cable goes on working."""
    access = ["auth:", "  key-management: none"]
    if wifi.key is not None:
        access = [f"password: {_quoted(wifi.key)}"]
    return "\n".join(
        [
            *("network:", "  version: 2"),
            *("  ethernets:", "    eth0:"),
            *("      dhcp4: true", "      dhcp6: true", "      optional: true"),
            *("  wifis:", "    wlan0:", "      dhcp4: true", "      optional: true"),
            f"      regulatory-domain: {_quoted(wifi.country)}",
            *("      access-points:", f"        {_quoted(wifi.ssid)}:"),
            *(f"          {line}" for line in access),
            "",
        ]
    )


def _quoted(text: str) -> str:
    """In YAML's double quotes, which take what JSON's do."""
    return json.dumps(text, ensure_ascii=False)
