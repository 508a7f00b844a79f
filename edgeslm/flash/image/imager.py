"""An image as Raspberry Pi Imager 2 lists it: `rpi-imager --repo FILE`. Pure.

Source: rpi-imager, doc/json-schema/os-list-schema.json and doc/os_customisation_formats.md.
"""

from __future__ import annotations

import re
from typing import Any

from edgeslm.errors import InvalidOption
from edgeslm.flash.image.system import FirstBoot

_DEVICES = ("pi5-64bit", "pi4-64bit", "pi3-64bit")
_URL = re.compile(r"(https?|file)://[^\s\"<>]+")


def os_list(
    *,
    name: str,
    description: str,
    url: str,
    size: int,
    sha256: str,
    date: str,
    first_boot: FirstBoot,
) -> dict[str, Any]:
    """The list with this one image.

    Args:
        name: For people.
        description: For people, a sentence.
        url: Where the image will be fetched, as it is: not compressed.
        size: Of the image, in bytes.
        sha256: Of the image.
        date: When it was made, as in 2025-11-30.
        first_boot: How Imager may change its settings; NONE where they are in it already.

    Raises:
        InvalidOption: not an address.
    """
    ensure_address(url)
    item = {
        "name": name,
        "description": description,
        "icon": "icons/use_custom.png",
        "url": url,
        "extract_size": size,
        "extract_sha256": sha256,
        "image_download_size": size,
        "release_date": date,
        "devices": list(_DEVICES),
        "architecture": "armv8",
        "init_format": first_boot.value,
    }
    return {"os_list": [item]}


def ensure_address(url: str) -> None:
    """Return if an image can be fetched from there: to be asked before long work.

    Raises:
        InvalidOption: not an address.
    """
    if not _URL.fullmatch(url):
        raise InvalidOption(
            f"not an address: {url!r}",
            hint="As in https://example.org/board.img: where the image will be fetched.",
        )
