from __future__ import annotations

import os
import sys

import pytest

from edgeslm.flash.ssh import machine


def test_a_32_bit_system_on_a_64_bit_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = os.uname_result(("Linux", "board", "6.12", "#1", "aarch64"))
    monkeypatch.setattr(os, "uname", lambda: kernel)
    assert machine.look()["architecture"] == "aarch64"
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert machine.look()["architecture"] == "armv7l"
