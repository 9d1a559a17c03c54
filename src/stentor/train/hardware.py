"""What a machine has, by the standard library alone: Linux, macOS and Windows."""

from __future__ import annotations

import os
import platform
import sys
from typing import Any


def hardware() -> dict[str, Any]:
    """Logical cores, memory in GiB (None where it can't be known) and the operating system."""
    memory = _memory()
    return {
        "cores": os.cpu_count(),
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
        "system": platform.platform(terse=True),
    }


if sys.platform == "win32":

    def _memory() -> int | None:
        """Bytes of physical memory, as Windows' GlobalMemoryStatusEx tells it."""
        import ctypes

        class Status(ctypes.Structure):
            _fields_ = [
                ("length", ctypes.c_uint32), ("load", ctypes.c_uint32),
                *((name, ctypes.c_uint64) for name in (
                    "total", "free", "page_total", "page_free", "virtual_total", "virtual_free",
                    "extended_free",
                )),
            ]  # fmt: skip

        status = Status(length=ctypes.sizeof(Status))
        known = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status.total) if known else None

else:

    def _memory() -> int | None:
        """Bytes of physical memory, as POSIX systems tell it."""
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):  # a system without these names
            return None
