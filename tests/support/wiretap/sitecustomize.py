"""Writes down, in the clear, every byte that a process sends over TLS, into the file that WIRETAP names."""

from __future__ import annotations

import os
import ssl
from typing import Any

if tape := os.environ.get("WIRETAP"):
    write = ssl.SSLObject.write

    def tapped(self: ssl.SSLObject, data: Any) -> int:
        count = write(self, data)
        with open(tape, "ab") as file:
            file.write(bytes(memoryview(data)[:count]))
        return count

    ssl.SSLObject.write = tapped  # type: ignore[method-assign, assignment]
