"""NVIDIA graphics cards, through the management library that comes with their driver.

Cards since Volta count energy (`nvmlDeviceGetTotalEnergyConsumption`, millijoules since the driver
was loaded); older ones show power only (`nvmlDeviceGetPowerUsage`, milliwatts, averaged over about
a second on some). All cards are added up. It is the cards alone: a model on the processor does not
show here, so this meter is read only if it is asked for by name. (nvml.h)
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

from edgeslm.errors import MeasurementFailure
from edgeslm.profiling.meters import base
from edgeslm.profiling.meters.base import Finding, Meter, Scope
from edgeslm.profiling.meters.sampled import SampledMeter
from edgeslm.records import Provenance

NAME = "nvml"
_NOT_SUPPORTED = 3
_NO_PERMISSION = 4
_PERIOD_SECONDS = 0.1


@dataclass
class _Error(OSError):
    """A call that returned something else than success."""

    code: int
    said: str

    def __str__(self) -> str:
        return f"{self.said} (NVML code {self.code})"


class _Library:
    """The few calls that are needed; each raises `_Error`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.nvmlErrorString.restype = ctypes.c_char_p
        library.nvmlErrorString.argtypes = [ctypes.c_int]
        self._call("nvmlInit_v2")

    def cards(self) -> list[ctypes.c_void_p]:
        """A handle for each card."""
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        return [self._card(index) for index in range(count.value)]

    def name(self, card: ctypes.c_void_p) -> str:
        """The product's name."""
        text = ctypes.create_string_buffer(96)
        self._call("nvmlDeviceGetName", card, text, ctypes.c_uint(len(text)))
        return text.value.decode("utf-8", "replace")

    def joules(self, card: ctypes.c_void_p) -> float:
        """Energy since the driver was loaded."""
        millijoules = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", card, ctypes.byref(millijoules))
        return millijoules.value / 1000

    def watts(self, card: ctypes.c_void_p) -> float:
        """Power now."""
        milliwatts = ctypes.c_uint()
        self._call("nvmlDeviceGetPowerUsage", card, ctypes.byref(milliwatts))
        return milliwatts.value / 1000

    def _card(self, index: int) -> ctypes.c_void_p:
        card = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(card))
        return card

    def _call(self, name: str, *arguments: object) -> None:
        try:
            code = getattr(self._library, name)(*arguments)
        except AttributeError:
            code = _NOT_SUPPORTED  # an older library
        if code:
            said = self._library.nvmlErrorString(code) or b"unknown error"
            raise _Error(code, said.decode("utf-8", "replace"))


class NvmlEnergyMeter:
    """The counters of all cards."""

    name = NAME
    scope = Scope.GPU
    provenance = Provenance.MEASURED
    period_seconds = _PERIOD_SECONDS

    def __init__(self, read_joules: Callable[[], float], source: str) -> None:
        self._read = read_joules
        self.source = source

    def read_joules(self) -> float:
        """Energy of all cards since the driver was loaded.

        Raises:
            MeasurementFailure: a card does not answer any more.
        """
        try:
            return self._read()
        except OSError as error:
            raise MeasurementFailure(
                f"NVML cannot be read any more: {error}", hint="Look at: nvidia-smi"
            ) from error


def find(file_name: str) -> Finding:
    """The graphics cards that the library `file_name` knows."""
    try:
        loaded = ctypes.CDLL(file_name)
    except OSError:
        return base.absent(NAME, f"{file_name} is not installed, so there is no NVIDIA card")
    try:
        library = _Library(loaded)
        cards = library.cards()
        if not cards:
            return base.absent(NAME, "the driver knows no card")
        meter = _meter(library, cards)
    except AttributeError as error:
        return base.failed(NAME, f"{file_name} is something else: {error}")
    except _Error as error:
        if error.code == _NO_PERMISSION:
            return base.forbidden(NAME, str(error), "Ask for access to /dev/nvidia*.")
        return base.failed(NAME, str(error), "Look at: nvidia-smi")
    return base.found(meter, meter.source)


def _meter(library: _Library, cards: list[ctypes.c_void_p]) -> Meter:
    names = " + ".join(library.name(card) for card in cards)
    try:
        for card in cards:
            library.joules(card)
    except _Error as error:
        if error.code != _NOT_SUPPORTED:
            raise
        sum(library.watts(card) for card in cards)
        return SampledMeter(
            NAME,
            Scope.GPU,
            f"NVML power, {names}",
            lambda: sum(library.watts(card) for card in cards),
            period_seconds=_PERIOD_SECONDS,
        )
    return NvmlEnergyMeter(
        lambda: sum(library.joules(card) for card in cards), f"NVML energy counter, {names}"
    )
