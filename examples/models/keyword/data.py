"""Spoken words, as a microphone in a workshop would record them: eSpeak NG speaks, workshop.py adds the rest.

Each recording has a voice of its own: an accent of English, one of eSpeak's timbres, a pitch, a speed and a
melody, and it is played faster or slower as a whole, so that the resonances move too. It becomes WAV and is
read by the code that a node reads it with: the model is trained on exactly what a pipeline gives it.
"""

from __future__ import annotations

import io
import sys
import tomllib
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from speech import Engine, timbres
from workshop import RATE, even, hiss, hum, in_a_room, resampled, strikes

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "src"))

from atoll.domain.models import TensorFacts  # noqa: E402
from atoll.pipelines.sounds import read_sound  # noqa: E402

LABELS = ("yes", "no", "start", "stop", "up", "down", "left", "right", "other")
OTHER = len(LABELS) - 1
SOUND = TensorFacts("sound", "FP32", (-1, 40, 98))  # one second: 40 mels, a window every 10 ms
SAMPLES = TensorFacts("samples", "FP32", (-1, RATE))

SAID = {key: tuple(names) for key, names in tomllib.loads((HERE / "speech.toml").read_text("utf-8")).items()}
TIMBRES = tuple(sorted(timbres() - {*SAID["new_timbres"], *SAID["nobodys_timbres"]}))

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Conditions:
    """What recordings are drawn from. The ratio of word to noise is in decibels."""

    accents: Sequence[str] = SAID["accents"]
    timbres: Sequence[str] = TIMBRES
    words: Sequence[str] = SAID["words"]
    noises: Sequence[str] = ("hiss", "hum", "babble")
    ratio: tuple[float, float] = (5.0, 40.0)
    others: float = 0.3  # how much of it is none of the eight words
    speechless: float = 0.2  # how much of that is no word at all


TRAINED = Conditions()
NEW_ACCENTS, NEW_TIMBRES, MORE = SAID["new_accents"], SAID["new_timbres"], (-5.0, 5.0)
HELD_OUT = {
    "timbres never heard": Conditions(timbres=NEW_TIMBRES),
    "accents never heard": Conditions(accents=NEW_ACCENTS),
    "a noise never heard: strikes": Conditions(noises=("strikes",)),
    "more noise": Conditions(ratio=MORE),
    "all four": Conditions(NEW_ACCENTS, NEW_TIMBRES, noises=("strikes",), ratio=MORE),
    "other words, never heard": Conditions(words=SAID["new_words"], others=1.0, speechless=0.0),
}


def examples(count: int, conditions: Conditions, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """So many recordings as the model's input, and which of LABELS each is."""
    wavs, labels = zip(*recordings(count, conditions, seed), strict=True)
    return np.stack([read_sound(wav, SOUND, {}) for wav in wavs]), np.array(labels)


def recordings(count: int, conditions: Conditions, seed: int) -> Iterator[tuple[bytes, int]]:
    """WAV of about one second each."""
    random = np.random.default_rng(seed)
    studio = Studio(conditions, random)
    for _ in range(count):
        label = OTHER if random.random() < conditions.others else int(random.integers(OTHER))
        yield studio.record(label), label


class Studio:
    def __init__(self, conditions: Conditions, random: np.random.Generator) -> None:
        self.conditions, self.random = conditions, random
        self.engine = Engine()
        self.talk = [self.say(" ".join(random.choice(conditions.words, 6))) for _ in range(40)]

    def record(self, label: int) -> bytes:
        random = self.random
        spoken = (self.other() if label == OTHER else self.say(LABELS[label]))[:RATE]
        length = RATE if random.random() < 0.6 else int(random.uniform(0.6, 1.5) * RATE)
        signal = np.zeros(max(length, len(spoken)), np.float32)
        first = random.integers(min(len(signal), RATE) - len(spoken), endpoint=True)
        signal[first : first + len(spoken)] = even(spoken)
        signal = in_a_room(signal, random)
        signal /= np.sqrt((signal**2).sum() / len(spoken)) + 1e-9
        signal += self.noise(len(signal)) * 10 ** (-random.uniform(*self.conditions.ratio) / 20)
        signal *= 10 ** random.uniform(-2, 0) / np.abs(signal).max()
        if len(spoken) == 1 and random.random() < 0.05:  # switched off
            signal *= 0
        elif random.random() < 0.1:  # too loud for the microphone
            signal *= random.uniform(1, 3) / np.abs(signal).max()
        return as_wav(signal, RATE if random.random() < 0.7 else int(random.choice([8_000, 22_050, 44_100])))

    def other(self) -> Floats:
        """None of the eight words: nothing, a number in another language, another word."""
        speechless = self.conditions.speechless
        if self.random.random() < speechless:
            return np.zeros(1, np.float32)
        if speechless and self.random.random() < 0.2:
            return self.spoken(str(self.random.integers(100)), self.one_of(SAID["languages"]))
        return self.say(self.one_of(self.conditions.words))

    def say(self, words: str) -> Floats:
        return self.spoken(words, self.one_of(self.conditions.accents))

    def spoken(self, words: str, language: str) -> Floats:
        voice = f"{language}+{self.one_of(self.conditions.timbres)}"
        spoken = self.engine.say(words + self.one_of(("", ".", "!", "?")), voice, self.random)
        slower = self.random.uniform(0.86, 1.16)
        return resampled(spoken, int(len(spoken) * RATE / self.engine.rate * slower) + 1)

    def noise(self, count: int) -> Floats:
        match self.one_of(self.conditions.noises):
            case "hum":
                return hum(count, self.random)
            case "strikes":
                return strikes(count, self.random)
            case "babble":
                return self.babble(count)
        return hiss(count, self.random)

    def babble(self, count: int) -> Floats:
        """Some people who talk about something else."""
        made = 0.1 * hiss(count, self.random)
        for _ in range(self.random.integers(3, 7)):
            talk = self.talk[self.random.integers(len(self.talk))]
            made += even(np.resize(np.roll(talk, self.random.integers(len(talk))), count))
        return even(made)

    def one_of(self, names: Sequence[str]) -> str:
        return names[int(self.random.integers(len(names)))]


def as_wav(signal: Floats, rate: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        scaled = resampled(signal, round(len(signal) * rate / RATE)) * 32767
        file.writeframes(np.clip(np.round(scaled), -32768, 32767).astype("<i2").tobytes())
    return out.getvalue()
