"""Smart plugs, as real HTTP servers on this machine that answer as their makers document it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeslm.errors import InvalidOption, MeasurementFailure
from edgeslm.profiling.meters import plugs
from edgeslm.profiling.meters.base import Meter, Scope, State
from edgeslm.profiling.meters.sampled import SampledMeter
from edgeslm.records import Provenance

Answer = tuple[int, bytes]


class Plug:
    """A server that answers by path; `asked` has what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.failing = 0
        plug = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                plug.asked.append((self.path, self.headers.get("Authorization")))
                if plug.failing:
                    plug.failing -= 1
                    self.connection.close()
                    return
                code, text = plug.answers.get(self.path, (404, b"Not Found"))
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, path: str, value: object, code: int = 200) -> None:
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.answers[path] = (code, raw)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def plug() -> Iterator[Plug]:
    server = Plug()
    yield server
    server.close()


def shelly_status(watts: float, channel: int = 0) -> dict[str, object]:
    """Switch.GetStatus of a Shelly Plus Plug S."""
    return {
        "id": channel,
        "source": "init",
        "output": True,
        "apower": watts,
        "voltage": 231.7,
        "current": 0.041,
        "aenergy": {
            "total": 14.093,
            "by_minute": [61.5, 60.1, 61.9],
            "minute_ts": 1762077060,
        },
        "temperature": {"tC": 41.1, "tF": 106.0},
    }


def gen2(plug: Plug, watts: float, channel: int = 0) -> None:
    about = {"id": "shellyplusplugs-a", "gen": 2, "app": "PlusPlugS", "model": "SNPL-00112EU"}
    plug.answer("/shelly", about)
    plug.answer(f"/rpc/Switch.GetStatus?id={channel}", shelly_status(watts, channel))


def gen1(plug: Plug, watts: float) -> None:
    plug.answer("/shelly", {"type": "SHPLG-S", "mac": "5ECF7F1632E8", "auth": False})
    meter = {
        "power": watts,
        "overpower": 0,
        "is_valid": True,
        "timestamp": 1762077060,
        "counters": [3.9, 3.9, 3.8],
        "total": 9123,
    }
    plug.answer("/meter/0", meter)


def tasmota(plug: Plug, power: object, path: str = "/cm?cmnd=Status%208") -> None:
    energy = {
        "TotalStartTime": "2024-08-19T11:52:13",
        "Total": 6.041,
        "Yesterday": 0.1,
        "Today": 0.023,
        "Power": power,
        "ApparentPower": 11,
        "ReactivePower": 9,
        "Factor": 0.61,
        "Voltage": 234,
        "Current": 0.047,
    }
    plug.answer(path, {"StatusSNS": {"Time": "2025-11-02T16:00:25", "ENERGY": energy}})


def found(address: str) -> SampledMeter:
    finding = plugs.find(address)
    assert isinstance(finding.meter, SampledMeter), finding.reason
    return finding.meter


def watts(meter: Meter) -> float:
    assert isinstance(meter, SampledMeter)
    return meter._integral._read_watts()


def test_shelly_of_the_second_generation(plug: Plug) -> None:
    gen2(plug, 9.4)
    meter = found(f"shelly://{plug.host}")

    assert watts(meter) == pytest.approx(9.4)
    assert (meter.name, meter.scope) == ("shelly", Scope.BOARD)
    assert meter.provenance is Provenance.MEASURED
    assert meter.period_seconds == 1.0
    assert "SNPL-00112EU" in meter.source
    assert "0.1 W" in meter.source


def test_another_channel_of_a_shelly(plug: Plug) -> None:
    gen2(plug, 3.5, channel=2)

    assert watts(found(f"shelly://{plug.host}/2")) == pytest.approx(3.5)


def test_shelly_of_the_first_generation(plug: Plug) -> None:
    gen1(plug, 11.27)
    meter = found(f"shelly://{plug.host}")

    assert watts(meter) == pytest.approx(11.27)
    assert "SHPLG-S" in meter.source


def test_joules_by_hand(plug: Plug) -> None:
    gen2(plug, 4.0)
    meter = found(f"shelly://{plug.host}")
    ticks = iter([0.0, 0.0, 3.0, 3.0])
    meter._integral._clock = lambda: next(ticks)
    meter._integral.sample()
    gen2(plug, 6.0)

    assert meter._integral.sample() == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("power", "expected", "resolution"),
    [(7, 7.0, "whole watts"), (7.25, 7.25, "fractions of a watt"), ([2.5, 4], 6.5, "fractions")],
)
def test_tasmota(power: object, expected: float, resolution: str, plug: Plug) -> None:
    tasmota(plug, power)
    meter = found(f"tasmota://{plug.host}")

    assert watts(meter) == pytest.approx(expected)
    assert meter.name == "tasmota"
    assert resolution in meter.source


def test_a_password_goes_to_the_plug_and_nowhere_else(plug: Plug) -> None:
    tasmota(plug, 5, "/cm?cmnd=Status%208&user=admin&password=a%20b%26c")
    meter = found(f"tasmota://admin:a%20b%26c@{plug.host}")
    assert watts(meter) == 5.0
    assert "a b&c" not in meter.source
    assert "admin" not in meter.source

    gen1(plug, 5.0)
    found(f"shelly://admin:secret@{plug.host}")
    assert plug.asked[-1][1] == "Basic YWRtaW46c2VjcmV0"


@pytest.mark.parametrize("scheme", ["shelly", "tasmota"])
def test_a_plug_that_wants_a_password(scheme: str, plug: Plug) -> None:
    plug.answer("/shelly", {}, code=401)
    plug.answer("/cm?cmnd=Status%208", {"WARNING": "Need user=<username>&password=<password>"})

    finding = plugs.find(f"{scheme}://{plug.host}")

    assert (finding.state, finding.meter) == (State.FORBIDDEN, None)
    assert finding.hint is not None
    assert "USER:PASSWORD" in finding.hint


def test_one_lost_answer_is_no_failure(plug: Plug) -> None:
    gen2(plug, 5.0)
    meter = found(f"shelly://{plug.host}")
    plug.failing = 1

    assert watts(meter) == 5.0


def test_a_plug_that_goes_away_is_a_failure(plug: Plug) -> None:
    gen2(plug, 5.0)
    meter = found(f"shelly://{plug.host}")
    meter.read_joules()
    plug.close()

    with pytest.raises(MeasurementFailure, match="shelly cannot be read any more"):
        meter.read_joules()


def test_nobody_there(plug: Plug) -> None:
    plug.close()
    finding = plugs.find(f"tasmota://{plug.host}")

    assert (finding.state, finding.meter) == (State.FAILED, None)
    assert "does not answer" in finding.reason


@pytest.mark.parametrize("scheme", ["shelly", "tasmota"])
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>It works!</html>",
        b"[]",
        b"null",
        b'"apower"',
        b"[" * 60_000,
        b"9" * 6000,
        b'{"apower": NaN, "power": NaN, "StatusSNS": {"ENERGY": {"Power": NaN}}}',
        b'{"apower": 1e999, "power": 1e999, "StatusSNS": {"ENERGY": {"Power": 1e999}}}',
        b'{"apower": true, "power": true, "StatusSNS": {"ENERGY": {"Power": true}}}',
        b'{"apower": "9", "power": "9", "StatusSNS": {"ENERGY": {"Power": "9"}}}',
        b'{"gen": "two", "StatusSNS": []}',
        b'{"StatusSNS": {"Time": "2025-11-02T16:00:25", "AM2301": {"Temperature": 20.1}}}',
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_plug_is_a_reason(scheme: str, answer: bytes, plug: Plug) -> None:
    for path in ("/shelly", "/meter/0", "/cm?cmnd=Status%208"):
        plug.answer(path, answer)

    finding = plugs.find(f"{scheme}://{plug.host}")

    assert (finding.state, finding.meter) == (State.FAILED, None)
    assert "not with watts" in finding.reason


def test_a_server_that_sends_us_elsewhere_is_no_plug(plug: Plug) -> None:
    gen2(plug, 5.0)
    plug.answer("/shelly", b"", code=302)

    assert plugs.find(f"shelly://{plug.host}").state is State.FAILED


def test_no_proxy_is_asked(plug: Plug) -> None:
    gen2(plug, 5.0)
    code = "import sys; from edgeslm.profiling.meters import plugs; print(plugs.find(sys.argv[1]))"
    said = subprocess.run(
        [sys.executable, "-c", code, f"shelly://{plug.host}"],
        env=os.environ | {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "FOUND" in said


@pytest.mark.parametrize(
    "address",
    [
        "",
        "shelly:",
        "shelly://",
        "http://192.168.1.40",
        "shelly://h:99999999",
        "shelly://h:x",
        "shelly://h/one",
        "shelly://h\n/0",
        "shelly://[::1",
        "kasa://h",
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        plugs.find(address)
    assert caught.value.hint


def test_an_error_does_not_repeat_the_password() -> None:
    with pytest.raises(InvalidOption) as caught:
        plugs.find("kasa://me:secret@h")
    assert "secret" not in caught.value.message


@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b"1" * 5000)
def test_whatever_is_answered_is_an_object_or_a_reason(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(plugs.parse_object(text), dict)


@given(st.text(max_size=20))
def test_whatever_the_address_is(text: str) -> None:
    check: Callable[[str], object] = plugs._split
    for address in (text, f"shelly://{text}"):
        with contextlib.suppress(InvalidOption):
            check(address)
