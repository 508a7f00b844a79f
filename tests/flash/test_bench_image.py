"""The script that compares the speed with dd: what it may write over."""

from __future__ import annotations

import io
import json
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
from made_machines import make_laptop

from edgeslm.errors import InvalidOption, RefusedDevice
from edgeslm.flash import devices

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_image"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("bench_image", str(SCRIPT))
    spec = spec_from_loader("bench_image", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_it_measures_and_leaves_nothing(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "bench_image",
        "--size",
        "1M",
        "--rounds",
        "1",
        "--to",
        str(tmp_path / "new"),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", words)
    bench.main()

    (told,) = json.loads(capsys.readouterr().out)["rounds"]
    assert all(told[name] > 0 for name in ("dd", "write", "read_back"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    monkeypatch.setattr(
        sys, "argv", ["bench_image", "--size", "1M", "--to", str(tmp_path / "mine")]
    )

    with pytest.raises(SystemExit, match="there already"):
        bench.main()
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_disk_is_checked_and_its_name_typed(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, find = make_laptop(tmp_path / "laptop"), devices.find_device
    monkeypatch.setattr(devices, "find_device", lambda path: find(path, root))

    with pytest.raises(RefusedDevice, match="this system runs"), bench._place(NVME, 1):
        pytest.fail("it would have been written")
    monkeypatch.setattr(sys, "stdin", io.StringIO("sdg\n"))
    with pytest.raises(InvalidOption, match="another name"), bench._place(SDA, 1):
        pytest.fail("it would have been written")
    monkeypatch.setattr(sys, "stdin", io.StringIO("sda\n"))
    with bench._place(SDA, 1) as (target, disk):
        assert (target, disk) == (SDA, find(SDA, root))


NVME, SDA = Path("/dev/nvme0n1"), Path("/dev/sda")
