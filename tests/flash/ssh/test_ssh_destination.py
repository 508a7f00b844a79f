from __future__ import annotations

import pytest

from edgeslm.errors import InvalidOption
from edgeslm.flash.ssh.destination import Destination, parse_destination


@pytest.mark.parametrize(
    ("text", "address", "name", "prefix"),
    [
        ("ssh://pi@board.local", "ssh://pi@board.local", "board.local", None),
        ("ssh://board", "ssh://board", "board", None),
        ("ssh://board/", "ssh://board", "board", None),
        (
            "ssh://a@10.0.0.7:2222/srv/edge-1",
            "ssh://a@10.0.0.7:2222",
            "10.0.0.7:2222",
            "/srv/edge-1",
        ),
        ("ssh://a@[fe80::1]:22/mnt/a.b/", "ssh://a@[fe80::1]:22", "[fe80::1]:22", "/mnt/a.b"),
    ],
)
def test_taken_apart(text: str, address: str, name: str, prefix: str | None) -> None:
    assert parse_destination(text) == Destination(text, address, name, prefix)


@pytest.mark.parametrize(
    "text",
    [
        *("ssh://", "ssh:///srv", "ssh://-oProxyCommand=x", "ssh://a b", "board", "ssh://a\n"),
        *("ssh://a/srv/../etc", "ssh://a/srv/./b", "ssh://a//srv", "ssh://a/s v", "ssh://a/%h"),
        *("ssh://a/$HOME", "ssh://a/x;y", "ssh://a/x'y", "ssh://a/\u00e4"),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidOption):
        parse_destination(text)
