"""Wakes an event loop from another thread, which goes on at once."""

from __future__ import annotations

import asyncio
import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any

_READ = 4096


class Doorbell:
    """Whoever rings keeps Python's lock.

    `call_soon_threadsafe` lets it go while it writes. The event loop, which wakes by that, has it
    then for as long as its events take, and the thread that only wanted to tell it waits.

    Args:
        loop: Is woken; everything but `ring` is for its thread.
        answer: Called in it after one ring or several.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: Callable[[], None]) -> None:
        self._loop = loop
        self._answer = answer
        self._write: Any = _write_with_lock()
        if self._write is None:
            return
        self._inside, self._outside = os.pipe()
        for end in (self._inside, self._outside):
            os.set_blocking(end, False)
            weakref.finalize(self, os.close, end).atexit = False
        loop.add_reader(self._inside, self._rung)

    def ring(self) -> None:
        """Have the loop answer soon; any thread may.

        Raises:
            RuntimeError: the loop is closed.
        """
        if self._write is None:
            self._loop.call_soon_threadsafe(self._answer)
        elif self._loop.is_closed():
            raise RuntimeError("the event loop is closed")
        else:
            self._write(self._outside, b"\0", 1)  # if it is full, the loop will wake anyway

    def _rung(self) -> None:
        os.read(self._inside, _READ)
        self._answer()


def _write_with_lock() -> Any:
    """The system's `write`, called without letting the lock go; None where there is none."""
    if os.name != "posix":
        return None
    write = ctypes.PyDLL(None).write
    write.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)
    write.restype = ctypes.c_ssize_t
    return write
