"""Where things lie on a device, whoever put them there."""

from __future__ import annotations

OPT = "opt/edgeslm"
"""Of the runtime: `runtimes/<id>/` with `site` and `bin/edgeslm`, and `current` to one of them."""

STORE = "var/lib/edgeslm/store"
"""Of the bundles."""

HOME = "var/lib/edgeslm"
"""Of the service's own user."""

TRUSTED_KEYS = "etc/edgeslm/trusted_keys"
"""Public keys of those whose bundles are accepted."""

COMMAND = f"{OPT}/current/bin/edgeslm"
"""What is run, whichever runtime is current."""

UNIT = "etc/systemd/system/edgeslm.service"

WANTED = "etc/systemd/system/multi-user.target.wants/edgeslm.service"
"""A link to the unit: what `systemctl enable` makes."""

SERVICE = "edgeslm.service"

USER = "edgeslm"
"""Whom the service runs as; not one who can log in."""

SYSUSERS = "etc/sysusers.d/edgeslm.conf"
"""How systemd-sysusers makes that user."""
