"""The runtime in a bundle, unpacked for a device that does not run yet: into an image's folder."""

from __future__ import annotations

from pathlib import Path

from edgeslm.bundle.contents import read_runtime_list
from edgeslm.bundle.layout import DirectoryLayout, read_image
from edgeslm.bundle.names import BLOBS
from edgeslm.bundle.runtimes import RuntimeList
from edgeslm.errors import NotFound
from edgeslm.flash.wheels.install import Installed, choose, install
from edgeslm.flash.wheels.tags import Device


def runtimes_in(bundle: Path) -> RuntimeList:
    """Which runtimes a bundle brings along.

    Args:
        bundle: Its directory.

    Raises:
        NotFound: none.
        InvalidBundle: what it says of them is not so.
    """
    layout = DirectoryLayout(bundle)
    found = read_runtime_list(layout, read_image(layout))
    if found is None:
        raise NotFound(
            f"{bundle}: brings no runtime for a device",
            hint="Make one with: edgeslm wheels, and pack with --runtime.",
        )
    return found


def fill(bundle: Path, root: Path, device: Device) -> Installed:
    """Unpack a bundle's runtime for a device below `root`, as its current one.

    Args:
        bundle: Its directory, verified.
        root: A folder that will be the root of the device's system.
        device: What will run there.

    Raises:
        NotFound, Unsupported: the bundle has no runtime for it.
        InvalidBundle: a wheel is damaged.
        OutputFailure: it cannot be written.
    """
    runtimes = runtimes_in(bundle)
    chosen = choose(runtimes, device)
    return install(runtimes, chosen, bundle / BLOBS, root, durable=False)
