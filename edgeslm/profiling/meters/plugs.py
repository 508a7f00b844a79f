"""Smart plugs that measure, asked over the local network: Shelly and Tasmota.

    shelly://HOST[:PORT][/CHANNEL]      Gen2 and later: /rpc/Switch.GetStatus?id=0, `apower`
                                        Gen1: /meter/0, `power`
    tasmota://[USER:PASSWORD@]HOST[:PORT]   /cm?cmnd=Status%208, `StatusSNS.ENERGY.Power`

All give watts, about once a second; their own energy counters are too coarse for a run (Shelly:
steps of 3.6 J, Gen1 of 60 J; Tasmota: 3600 J), so watts are integrated. It is the whole machine at
the wall, losses of the power supply included, which is what MLPerf Power asks for. Nothing is sent
to the plug but these questions. (shelly-api-docs.shelly.cloud, tasmota.github.io/docs/Commands)
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

from edgeslm.errors import InvalidOption
from edgeslm.profiling.meters import base
from edgeslm.profiling.meters.base import Finding, Scope
from edgeslm.profiling.meters.sampled import SampledMeter

SCHEMES = ("shelly", "tasmota")
_PERIOD_SECONDS = 1.0
_TIMEOUT_SECONDS = 3.0
_MOST_BYTES = 1 << 16
_NOT_FOUND = 404
_REFUSED = (401, 403)
_USAGE = "Write it like shelly://192.168.1.40 or tasmota://plug.local"


class _Refused(OSError):
    """The plug wants to know who asks."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A plug answers itself; one that sends us elsewhere is none."""

    def redirect_request(self, *_arguments: Any, **_more: Any) -> None:
        """Never."""


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
"""The plug is near: no proxy."""


def find(address: str) -> Finding:
    """The plug at `address`.

    Raises:
        InvalidOption: that is no address of a plug.
    """
    parts = _split(address)
    where = parts.hostname or ""
    try:
        read_watts, what = _shelly(parts) if parts.scheme == "shelly" else _tasmota(parts)
        read_watts()
    except _Refused as error:
        return base.forbidden(
            parts.scheme,
            f"{where} does not answer strangers: {error}",
            "Give user and password in the address: tasmota://USER:PASSWORD@HOST; "
            "with a Shelly of Gen2 or later, turn authentication off meanwhile.",
        )
    except OSError as error:
        return base.failed(
            parts.scheme,
            f"{where} does not answer: {error}",
            "Check the address, and that this machine is in the plug's network.",
        )
    except ValueError as error:
        return base.failed(
            parts.scheme,
            f"{where} answers, but not with watts: {error}",
            "Check that it is a plug of this kind, and one that measures.",
        )
    meter = SampledMeter(
        parts.scheme, Scope.BOARD, f"{where}: {what}", read_watts, period_seconds=_PERIOD_SECONDS
    )
    return base.found(meter, meter.source)


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        known = parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or any(character <= " " for character in address):
        raise InvalidOption(
            f"no address of a power meter: {_without_password(address)!r}", hint=_USAGE
        )
    return parts


def _without_password(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _shelly(parts: SplitResult) -> tuple[Callable[[], float], str]:
    """How to read a Shelly's watts, and what that is."""
    channel = _channel(parts)
    about = _ask(parts, "/shelly")
    generation = about.get("gen", 1)
    model = str(about.get("model") or about.get("type") or "Shelly")[:40]
    if isinstance(generation, int) and generation >= 2:
        path, key = f"/rpc/Switch.GetStatus?id={channel}", "apower"
    else:
        path, key = f"/meter/{channel}", "power"
    what = f"{model} {path}, {key} in steps of 0.1 W or coarser, about once a second"
    return lambda: _number(_ask(parts, path).get(key), key), what


def _tasmota(parts: SplitResult) -> tuple[Callable[[], float], str]:
    """How to read Tasmota's watts, and what that is."""
    path = "/cm?cmnd=Status%208"
    if parts.username is not None:
        who = {"user": unquote(parts.username), "password": unquote(parts.password or "")}
        path += f"&{urlencode(who, quote_via=quote)}"

    def power() -> Any:
        answer = _ask(parts, path)
        if "WARNING" in answer:
            raise _Refused("it wants user and password")
        sensors = answer.get("StatusSNS")
        energy = sensors.get("ENERGY") if isinstance(sensors, dict) else None
        return energy.get("Power") if isinstance(energy, dict) else None

    def watts() -> float:
        value = power()
        values = value if isinstance(value, list) else [value]
        return sum(_number(each, "ENERGY.Power") for each in values)

    steps = "whole watts (its console sets more digits: WattRes 2)"
    fine = any(isinstance(each, float) for each in _flat(power()))
    what = f"Tasmota Status 8, ENERGY.Power in {'fractions of a watt' if fine else steps}"
    return watts, f"{what}, about once a second"


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _channel(parts: SplitResult) -> int:
    text = parts.path.strip("/") or "0"
    if not (text.isascii() and text.isdecimal() and len(text) < 4):
        raise InvalidOption(
            f"no channel of a plug: {text!r}", hint="A number from 0: shelly://HOST/1"
        )
    return int(text)


def _ask(parts: SplitResult, path: str) -> dict[str, Any]:
    """The plug's answer; asked twice, since one packet lost is no meter lost.

    Raises:
        OSError: it does not answer.
        ValueError: the answer is no JSON object.
    """
    try:
        return _ask_once(parts, path)
    except _Refused:
        raise
    except OSError:
        return _ask_once(parts, path)


def _ask_once(parts: SplitResult, path: str) -> dict[str, Any]:
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    url = f"http://{host}{f':{parts.port}' if parts.port else ''}{path}"
    request = urllib.request.Request(url)
    if parts.username is not None and parts.scheme == "shelly":
        who = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(who).decode('ascii')}")
    try:
        with _OPENER.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            text = answer.read(_MOST_BYTES)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _REFUSED:
            raise _Refused(f"HTTP status {error.code}") from error
        if error.code == _NOT_FOUND:
            raise ValueError(f"it does not know {path.partition('&')[0]}") from error
        raise OSError(f"HTTP status {error.code}") from error
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from error
    except (http.client.HTTPException, UnicodeError) as error:
        raise OSError(f"no HTTP: {type(error).__name__}") from error
    return parse_object(text)


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: something else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {text[:40]!r}") from error
    if not isinstance(value, dict):
        raise ValueError(f"no JSON object: {text[:40]!r}")
    return value


def _number(value: Any, name: str) -> float:
    """`value` as a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} is no number of watts")
    return number
