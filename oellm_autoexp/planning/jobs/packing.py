"""Keeps the resolved configs of a plan's jobs in memory, each of which has the size of its experiment. Pure."""

from __future__ import annotations

import zlib

_PLENTY_BYTES = 64 << 20


class Packer:
    """Keeps JSON texts in memory: as they are while they are few, and compressed (zlib) beyond that."""

    def __init__(self) -> None:
        self._bytes = 0

    def packed(self, text: bytes) -> bytes:
        """What to keep of a text."""
        self._bytes += len(text)
        return text if self._bytes <= _PLENTY_BYTES else zlib.compress(text, 1)

    @staticmethod
    def unpacked(data: bytes) -> str:
        """The text that was packed."""
        return (data if data.startswith(b"{") else zlib.decompress(data)).decode()
