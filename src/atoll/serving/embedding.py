"""Vectors of questions. One that was made is held for a while: search, quoting and answers want the same."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from atoll.domain.errors import LinkError
from atoll.serving.asking import split
from atoll.serving.service import Serving

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEPT_MAX = 256


class Embedder:
    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._kept: OrderedDict[tuple[str, str, str], NDArray[Any]] = OrderedDict()
        self.made = 0

    async def vector(self, model: str, words: str) -> tuple[NDArray[Any], str]:
        """Of length one, and the version of the model that made it."""
        base, _ = split(model)
        async with self._serving.use(base) as runtime:
            loaded = self._serving.loaded(base)
            if loaded is None:
                raise LinkError("runtime-broken", f'model "{base}" is not loaded any more')
            key = base, loaded.wanted.version, words
            if key not in self._kept:
                self._kept[key] = (await runtime.embed([words])).vectors[0]
                self.made += 1
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
            return self._kept[key], loaded.wanted.version
