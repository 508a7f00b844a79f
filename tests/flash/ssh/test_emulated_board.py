"""A board whose system came with a card, flashed over ssh: a real systemd, on an emulated ARM."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated_boards import MARKS, MOST_SECONDS, edgeslm, get, make_card, pack, running, virt
from emulated_boards import wait_for as waited
from flashing_boards import Bundles, version_of

pytestmark = [*MARKS, pytest.mark.slow]
CONFIG = """\
Host board
    HostName 127.0.0.1
    Port {port}
    User anna
    IdentityFile {key}
    StrictHostKeyChecking no
    UserKnownHostsFile {known}
"""
OPEN_VERSION = """\
sudo sh -c 'grep -o "/versions/[0-9a-f]*" /proc/$(systemctl show -P MainPID edgeslm)/maps' \\
    | tail -1 | cut -d / -f 3
"""
"""The version whose model the service has open."""


@pytest.fixture
def packs(tiny_model: Path, tmp_path: Path) -> Iterator[Bundles]:
    """Two bundles that differ in what the model is told; in a folder with a key."""
    packed = []
    for name in ("first", "second"):
        told = tmp_path / f"{name}.txt"
        told.write_text(f"You are the {name}.")
        packed.append(pack(tiny_model, tmp_path / name, "--system", told))
    key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(key, check=True)
    yield packed[0], packed[1]
    shutil.rmtree(tmp_path)  # gigabytes


def test_a_board_from_a_card_is_updated_gone_back_and_removed(
    packs: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = packs
    make_card(first, tmp_path / "card.img", "--user", "anna", "--ssh-key", tmp_path / "key.pub")
    config = tmp_path / "config"
    told = []

    def flash(*words: object) -> str:
        began = time.monotonic()
        said = edgeslm("flash", *words, "--to", "ssh://board", "--ssh-config", config)
        told.append(f"{Path(str(words[0])).name}: {time.monotonic() - began:.0f} s")
        return said

    def on_board(*words: str) -> str:
        command = ["ssh", "-F", str(config), "board", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=300).stdout

    with running(virt(tmp_path / "card.img", tmp_path), tmp_path, 8080, 22) as (tail, ports):
        where, known = f"http://127.0.0.1:{ports[0]}", tmp_path / "known"
        config.write_text(CONFIG.format(port=ports[1], key=tmp_path / "key", known=known))

        def served() -> str:
            body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
            said = get(f"{where}/v1/chat/completions", body, timeout=MOST_SECONDS)
            assert said is not None, tail()
            assert json.loads(said)["usage"]["completion_tokens"] > 0
            return on_board(OPEN_VERSION).strip()

        waited(lambda: get(f"{where}/health"), tail)
        waited(lambda: on_board("echo", "here"), tail)
        assert served() == version_of(first)

        assert json.loads(flash(second, "--json"))["report"]["written_bytes"] < 200_000
        assert served() == version_of(second)
        assert version_of(second) in flash("--status")
        assert on_board("systemctl", "is-active", "edgeslm").strip() == "active"

        flash("--rollback")
        assert served() == version_of(first)

        flash("--uninstall", "--yes")
        assert get(f"{where}/health") is None
        assert on_board("ls", "/opt/edgeslm", "/var/lib/edgeslm", "/etc/edgeslm") == ""

        flash(second)
        assert served() == version_of(second)
    with capsys.disabled():
        print("\n" + "; ".join(told))
