from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

from edgeslm.records import DOCTOR_SCHEMA

Edgeslm = Callable[..., subprocess.CompletedProcess[str]]


def test_doctor_looks_at_this_machine(edgeslm: Edgeslm) -> None:
    done = edgeslm("doctor")

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for topic in ("board", "llama.cpp", "memory", "swap", "temperature", "load", "energy"):
        assert f" {topic} " in done.stdout
    for meter in ("hwmon", "rails", "rapl", "pmic", "battery", "powermetrics", "nvml"):
        assert f"\n{meter} " in done.stdout


def test_doctor_as_json(edgeslm: Edgeslm) -> None:
    done = edgeslm("doctor", "--json")
    found = json.loads(done.stdout)

    assert found["schema"] == DOCTOR_SCHEMA
    assert found["problems"] == sum(check["level"] == "problem" for check in found["checks"])
    assert {check["level"] for check in found["checks"]} <= {"ok", "note", "problem"}
    assert {
        "name",
        "state",
        "reason",
        "hint",
        "scope",
        "provenance",
        "source",
        "period_seconds",
    } == (set(found["meters"][0]))


def test_strict_fails_on_a_problem(edgeslm: Edgeslm) -> None:
    nobody = "shelly://127.0.0.1:9"
    assert edgeslm("doctor", "--meter", nobody).returncode == 0
    done = edgeslm("doctor", "--meter", nobody, "--strict")

    assert done.returncode == 1
    assert "127.0.0.1 does not answer" in done.stdout


def test_a_meter_that_cannot_be_is_refused(edgeslm: Edgeslm) -> None:
    for meter in ("voltmeter", "http://192.168.1.40", "shelly://"):
        done = edgeslm("doctor", "--meter", meter)
        assert done.returncode == 2
        assert "hint:" in done.stderr
