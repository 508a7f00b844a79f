from __future__ import annotations

import pytest

from edgeslm.errors import InvalidOption
from edgeslm.flash.image.imager import os_list
from edgeslm.flash.image.system import FirstBoot


def listed(url: str = "https://example.org/board.img") -> dict[str, object]:
    made = os_list(
        name="Helper",
        description="Serves a model",
        url=url,
        size=637_534_208,
        sha256="ab" * 32,
        date="2025-11-30",
        first_boot=FirstBoot.CLOUD_INIT,
    )
    (item,) = made["os_list"]
    return dict(item)


def test_what_imager_asks_for() -> None:
    item = listed()

    required = {"name", "description", "icon", "url", "extract_size", "extract_sha256"}
    assert required | {"image_download_size", "release_date", "devices"} <= set(item)
    assert item["extract_size"] == item["image_download_size"] == 637_534_208
    assert item["init_format"] == "cloudinit-rpi"


@pytest.mark.parametrize("url", ["board.img", "ftp://x/y", 'https://x/"', "https://x/a b"])
def test_no_address(url: str) -> None:
    with pytest.raises(InvalidOption):
        listed(url)
