"""Ask the files what they are for: the twenty questions, and every error and word in a wording never seen.

python evaluate.py [--out ../../../build/models/pebble]
"""

from __future__ import annotations

import argparse
import shutil
import tomllib
from pathlib import Path
from typing import Any

import data
from export import asked
from train import OUT

SHIPPED = "q8_0"
UNSEEN = {
    "error": "Somebody showed me {name}; what would you say about it?",
    "word": "Could you say what is meant by {name}?",
}


def chat(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]}


def answers(path: Path, questions: list[str]) -> list[str]:
    return [
        answer["choices"][0]["message"]["content"] for answer in asked(path, [chat(q) for q in questions])
    ]


def is_accepted(answer: str, words: list[list[str]]) -> bool:
    return all(any(word.lower() in answer.lower() for word in choice) for choice in words)


def twenty(path: Path, *, show: bool) -> None:
    questions = tomllib.loads((data.HERE / "questions.toml").read_text("utf-8"))["question"]
    said = answers(path, [question["ask"] for question in questions])
    right = [is_accepted(answer, question["words"]) for question, answer in zip(questions, said, strict=True)]
    print(f"{path.name}: {sum(right)} of {len(right)} questions")
    for question, answer, good in zip(questions, said, right, strict=True):
        if show:
            print(f"  {'+' if good else '-'} {question['ask']}\n      {answer}")


def every(path: Path, kind: str) -> None:
    """The share that is answered word for word as the documents have it."""
    facts = [fact for fact in data.facts() if fact.kind == kind]
    said = answers(path, [UNSEEN[kind].format(name=fact.name) for fact in facts])
    right = sum(answer == fact.answer for answer, fact in zip(said, facts, strict=True))
    print(f"{path.name}: {right} of {len(facts)} of kind {kind}, in a wording never seen", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    for form in ("q8_0", "q4_0"):
        path = out / f"pebble.{form}.gguf"
        twenty(path, show=form == SHIPPED)
        for kind in UNSEEN:
            every(path, kind)
    shutil.copyfile(out / f"pebble.{SHIPPED}.gguf", out / "pebble.gguf")


if __name__ == "__main__":
    main()
