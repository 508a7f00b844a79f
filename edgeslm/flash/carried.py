"""What is carried to a device as files: runtime, store, service, keys."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from edgeslm.bundle.contents import Contents
from edgeslm.bundle.layout import open_layout, read_image
from edgeslm.bundle.runtimes import RUNTIME_NAME, Runtime
from edgeslm.bundle.signing import read_public_key
from edgeslm.bundle.store import INCOMING, Store
from edgeslm.bundle.store_state import NAME_DIGITS, STATE_NAME, State
from edgeslm.bundle.trust import check_signed
from edgeslm.bundle.verification import verify_bundle
from edgeslm.bundle.writing import unpack_bundle
from edgeslm.errors import InvalidTarget, NotFound, Unsupported
from edgeslm.files import scratch_folder
from edgeslm.flash import places, service
from edgeslm.flash.runtimes import Brought
from edgeslm.flash.service import Service, account_line, home_lines
from edgeslm.flash.tree import Entry, Link, Tree, tree_of
from edgeslm.records import STORE_SCHEMA, document
from edgeslm.targets.loading import load_target
from edgeslm.targets.target import Target

ACCOUNT_UNIT = "etc/systemd/system/edgeslm-account.service"
_ACCOUNT_WANTED = "etc/systemd/system/multi-user.target.wants/edgeslm-account.service"
_TMPFILES = "etc/tmpfiles.d/edgeslm.conf"


@dataclass(frozen=True)
class Carried:
    """A bundle that was verified.

    Attributes:
        named: As the user named it.
        folder: Where its files lie: itself, or what a tar was unpacked to.
        contents: What it holds.
    """

    named: Path
    folder: Path
    contents: Contents

    @property
    def digest(self) -> str:
        """With its prefix."""
        return f"sha256:{self.contents.digest}"

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return tree_of(self.folder, "x").bytes

    @property
    def has_runtimes(self) -> bool:
        """Whether it brings along what a device runs it with."""
        return any(entry.file == RUNTIME_NAME for entry in self.contents.files)

    @cached_property
    def board(self) -> Target | None:
        """The board that it was packed for; None where it does not say, or nobody here knows it."""
        name = (self.contents.prediction or {}).get("target")
        with suppress(NotFound, InvalidTarget):
            return load_target(name) if isinstance(name, str) else None
        return None

    @property
    def free_bytes(self) -> int | None:
        """The memory that board has for it, as estimated when it was packed; None for unknown."""
        found = (self.contents.prediction or {}).get("memory_free_bytes")
        return found if isinstance(found, int) and found > 0 else None

    def features(self, architecture: str) -> frozenset[str] | None:
        """What that board's processor can do; None where nobody knows."""
        board = self.board
        if board is None or board.architecture != architecture:
            return None
        return frozenset(board.features)


@contextmanager
def opened(bundle: Path, beside: Path, keys: Sequence[Path] = ()) -> Iterator[Carried]:
    """Verify a bundle and have its files at hand while the block runs.

    Args:
        bundle: A directory or a tar.
        beside: A tar is unpacked into a folder next to this, and that goes with the block.
        keys: Who may have signed it; nobody has to where there are none.

    Raises:
        InvalidBundle, Untrusted, Unsupported: it is damaged, not signed, or of an old form.
    """
    trusted = [read_public_key(key) for key in keys]
    contents = verify_bundle(bundle).contents
    if contents.digest is None:
        raise Unsupported(
            f"{bundle}: packed before bundles", hint="Pack it again: edgeslm pack MODEL -o BUNDLE"
        )
    if trusted:
        layout = open_layout(bundle)
        check_signed(layout, read_image(layout), trusted)
    if bundle.is_dir():
        yield Carried(bundle, bundle, contents)
        return
    with scratch_folder(beside) as folder:
        unpack_bundle(bundle, folder / "bundle")
        yield Carried(bundle, folder / "bundle", contents)


@dataclass(frozen=True)
class Load:
    """All that is put onto a device that does not run yet.

    Attributes:
        carried: The bundle.
        brought: The runtimes there are.
        served: How it is served.
        keys: Who signs the bundles that are served; nobody has to where there are none.
    """

    carried: Carried
    brought: Brought
    served: Service
    keys: tuple[Path, ...] = ()

    @property
    def bytes(self) -> int:
        """At most, since the runtime is chosen once the device's system is seen."""
        return self.carried.bytes + self.brought.most_bytes

    def tree(self, runtime: Runtime, scratch: Path) -> Tree:
        """The files.

        Args:
            runtime: The one for the device, of those that are brought.
            scratch: See `Brought.tree`.

        Raises:
            EdgeslmError: something cannot be read, or is damaged.
        """
        return device_tree(
            self.carried, self.brought.current_tree(runtime, scratch), self.served, self.keys
        )


def device_tree(
    carried: Carried, runtime: Tree, served: Service, keys: Sequence[Path] = ()
) -> Tree:
    """Everything that a device needs to serve a bundle, as files.

    All of it is root's: what serves cannot change what it serves.

    Raises:
        EdgeslmError: something cannot be read.
    """
    return Tree.of(
        [
            *runtime.entries,
            *store_tree(carried.folder, carried.contents.digest or "").entries,
            *_service_entries(replace(served, trusts=bool(keys))),
            *(
                Entry(f"{places.TRUSTED_KEYS}/{key.name}", _public_bytes(key), 0o644)
                for key in keys
            ),
        ]
    )


def _public_bytes(key: Path) -> bytes:
    """The bytes of a file that really holds a public key, not the private one beside it."""
    read_public_key(key)
    return key.read_bytes()


def store_tree(bundle: Path, digest: str) -> Tree:
    """A store whose one version, the current one, is the bundle in a folder.

    Args:
        bundle: Its folder.
        digest: 64 hex digits.
    """
    store, version = Store(Path(places.STORE)), digest[:NAME_DIGITS]
    state = document(STORE_SCHEMA, State().switched(version))
    return Tree.of(
        [
            *tree_of(bundle, str(store.folder(version))).entries,
            Entry(str(store.root / INCOMING), None, 0o755),
            Entry(str(store.root / STATE_NAME), f"{json.dumps(state, indent=2)}\n".encode()),
        ]
    )


def _service_entries(served: Service) -> list[Entry]:
    return [
        Entry(places.UNIT, service.unit(served).encode()),
        Entry(places.WANTED, Link(f"/{places.UNIT}"), 0o777),
        Entry(ACCOUNT_UNIT, _ACCOUNT.encode()),
        Entry(_ACCOUNT_WANTED, Link(f"/{ACCOUNT_UNIT}"), 0o777),
        Entry(places.SYSUSERS, account_line(f"/{places.HOME}").encode()),
        Entry(_TMPFILES, home_lines(f"/{places.HOME}").encode()),
    ]


_ACCOUNT = f"""\
[Unit]
Description=The account that serves a language model
Documentation=man:sysusers.d(5)
# systemd makes accounts by itself only at the very first start of a system.
Before={places.SERVICE}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/systemd-sysusers /{places.SYSUSERS}
ExecStart=/usr/bin/systemd-tmpfiles --create /{_TMPFILES}

[Install]
WantedBy=multi-user.target
"""
