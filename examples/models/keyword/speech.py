"""eSpeak NG through its C interface, from the package espeakng-loader: words become samples."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from pathlib import Path
from typing import Any

import espeakng_loader
import numpy as np
from numpy.typing import NDArray

SYNCHRONOUS, STAY_ON_ERROR, UTF8 = 2, 0x8000, 1
SPEED, PITCH, RANGE = 1, 3, 4  # words a minute; how high; how much a melody moves
TAKING = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

Floats = NDArray[np.floating[Any]]


def timbres() -> set[str]:
    """The names of all variants: builds and timbres that any language can be spoken with."""
    return {path.name for path in (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir()}


class Engine:
    """One that has not spoken yet: what it says depends a little on what it said before."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copy(espeakng_loader.get_library_path(), folder)  # a copy has variables of its own
            self._library = ctypes.CDLL(copy)
        data = espeakng_loader.get_data_path().encode()
        self.rate: int = self._library.espeak_Initialize(SYNCHRONOUS, 1000, data, STAY_ON_ERROR)
        assert self.rate > 0, "eSpeak NG does not start"
        self._library.espeak_ng_SetRandSeed(1)
        ctypes.CDLL(None).srand(1)  # some timbres take their breath from there
        self._parts: list[NDArray[np.int16]] = []
        self._taking = TAKING(self._take)
        self._library.espeak_SetSynthCallback(self._taking)

    def say(self, words: str, voice: str, random: np.random.Generator) -> Floats:
        """Between −1 and 1, without the silence around it; the voice is LANGUAGE+TIMBRE."""
        assert self._library.espeak_SetVoiceByName(voice.encode()) == 0, f"no voice {voice}"
        for parameter, low, high in ((SPEED, 110, 260), (PITCH, 20, 80), (RANGE, 20, 90)):
            self._library.espeak_SetParameter(parameter, int(random.integers(low, high)), 0)
        text = words.encode() + b"\0"
        self._parts.clear()
        self._library.espeak_Synth(text, len(text), 0, 1, 0, UTF8, None, None)
        self._library.espeak_Synchronize()
        spoken = np.concatenate([np.zeros(1, np.float32), *self._parts]) / np.float32(32768)
        loud = np.flatnonzero(np.abs(spoken) > 0.02 * np.abs(spoken).max())
        return spoken[loud[0] : loud[-1] + 1] if len(loud) else spoken[:1]

    def _take(self, samples: Any, count: int, _events: int) -> int:
        if samples and count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0
