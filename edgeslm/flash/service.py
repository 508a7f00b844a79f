"""The systemd service that serves a device's current bundle, with as few rights as that needs."""

from __future__ import annotations

from dataclasses import dataclass

from edgeslm.errors import InvalidOption
from edgeslm.files import HASHES
from edgeslm.flash import places


@dataclass(frozen=True)
class Service:
    """What is served, and within what.

    Attributes:
        host: The address it listens on; 0.0.0.0 for the whole network.
        port: From 1 to 65535.
        most_bytes: The memory that it may take: what the board has for it. Not what one bundle
            needs, since others may come into the store. None sets no limit.
        trusts: Whether only bundles are served that are signed with a key in
            `places.TRUSTED_KEYS`; there has to be one then.
        root: The folder that all of `places` lies in.
        account: Whom it runs as; None where the user's own systemd starts it, which cannot
            shut it off from the rest of the system as well as the system's can.
    """

    host: str = "0.0.0.0"  # noqa: S104  a board is there to be asked by others
    port: int = 8080
    most_bytes: int | None = None
    trusts: bool = False
    root: str = "/"
    account: str | None = places.USER

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise InvalidOption(
                f"not a port: {self.port}", hint="Give a number from 1 to 65535, such as 8080."
            )
        if self.account is None and self.port < 1024:
            raise InvalidOption(
                f"port {self.port} is for root only", hint="Choose one from 1024 on: --port 8080"
            )
        for text in (
            self.host,
            self.account or "x",
            "x" + self.root.replace("/", "x"),
        ):
            if not text or any(not (sign.isalnum() or sign in "._:+@-") for sign in text):
                raise InvalidOption(
                    f"not a name or an address for a service: {text!r}",
                    hint="Use letters, digits and . _ : - only.",
                )


def unit(service: Service) -> str:
    """The text of the unit file; the same for the same service."""
    home, keys = _at(service, places.HOME), _at(service, places.TRUSTED_KEYS)
    return "\n".join(
        [
            *("[Unit]", "Description=A language model, served by edgeslm", "After=network.target"),
            *("StartLimitIntervalSec=300", "StartLimitBurst=5"),
            *("", "[Service]", "Type=exec", *_account(service)),
            f"ExecStart={' '.join(command(service))}",
            f"WorkingDirectory={home}",
            *([] if service.account is None else [f"Environment=HOME={home}"]),
            *([f"Environment=EDGESLM_TRUSTED_KEYS={keys}"] if service.trusts else []),
            *("Restart=on-failure", "RestartSec=5", "TimeoutStopSec=45"),
            *_memory(service),
            *_AS_LITTLE_AS_A_USER_CAN,
            *([] if service.account is None else _shut_off(service)),
            *(
                "",
                "[Install]",
                f"WantedBy={'default' if service.account is None else 'multi-user'}.target",
                "",
            ),
        ]
    )


def command(service: Service) -> list[str]:
    """What is run, in words."""
    words = [_at(service, places.COMMAND), "serve", _at(service, places.STORE)]
    return [*words, "--host", service.host, "--port", str(service.port)]


def account_line(home: str) -> str:
    """How systemd-sysusers makes the account; nobody can log in to it. See sysusers.d(5)."""
    return f'u {places.USER} - "serves a language model" {home}\n'


def home_lines(home: str) -> str:
    """What systemd-tmpfiles makes for that account. See tmpfiles.d(5).

    It may add files to its home and to its caches, and cannot move away what is root's there: the
    store, and the notes of hashes. Where only signed bundles are served, what it wrote itself must
    not stand for a hash; they are computed at each start then.
    """
    cache = f"{home}/.cache/edgeslm"
    shared = "".join(
        f"d {folder} 1775 root {places.USER} -\n" for folder in (home, f"{home}/.cache", cache)
    )
    return f"{shared}d {cache}/{HASHES} 0755 root root -\n"


def _at(service: Service, place: str) -> str:
    return f"{service.root.rstrip('/')}/{place}"


def _account(service: Service) -> list[str]:
    if service.account is None:
        return []
    own = service.account == places.USER
    return [f"User={service.account}", *([f"Group={places.USER}"] if own else [])]


_AS_LITTLE_AS_A_USER_CAN = (
    "NoNewPrivileges=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "UMask=0077",
)
_AS_LITTLE_AS_POSSIBLE = (
    "ProtectSystem=strict",
    "PrivateDevices=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
)


def _shut_off(service: Service) -> list[str]:
    """From all that is not the service's; but what it serves may lie in a home or in /tmp."""
    at_home = service.root.startswith(("/home", "/root", "/run/user"))
    in_tmp = service.root.startswith(("/tmp", "/var/tmp"))  # noqa: S108  nothing is put there
    return [
        *_AS_LITTLE_AS_POSSIBLE,
        f"ProtectHome={'read-only' if at_home else 'yes'}",
        f"PrivateTmp={'no' if in_tmp else 'yes'}",
        f"ReadWritePaths={_at(service, places.HOME)}",
        f"ReadOnlyPaths=-{_at(service, places.STORE)}",
        *(["AmbientCapabilities=CAP_NET_BIND_SERVICE"] if service.port < 1024 else []),
        *_capabilities(service),
    ]


def _capabilities(service: Service) -> list[str]:
    needed = "CAP_NET_BIND_SERVICE" if service.port < 1024 else ""
    return [f"CapabilityBoundingSet={needed}"]


def _memory(service: Service) -> list[str]:
    """A leak ends this service, not the whole board; serve itself plans within this limit."""
    if service.most_bytes is None:
        return []
    return [f"MemoryMax={service.most_bytes}", "MemorySwapMax=0", "OOMPolicy=stop"]
