from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.flash.wheels.collecting import Collected, collect
from edgeslm.flash.wheels.instruction_sets import instruction_set
from edgeslm.targets.loading import load_target


@pytest.fixture(scope="session")
def lasting_cache() -> Iterator[Path]:
    """The user's own cache folder: what takes minutes to make is made once."""
    home = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    folder = Path(home) / "edgeslm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESLM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def rpi5_runtime(lasting_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Collected:
    """The real runtime of a Raspberry Pi 5 with Debian 12: compiled, and fetched."""
    march = load_target("rpi5").cores[0].march
    assert march is not None
    folder = tmp_path_factory.mktemp("runtime") / "rpi5"
    return collect([instruction_set(march)], ["3.11"], folder)
