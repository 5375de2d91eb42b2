"""What Pebble reads: pages of text, and chats made from the tables of this project's documents.

Two sources, both found on the machine: Atoll's own documents (Apache-2.0), and the docstrings and language
reference that come with Python (PSF licence). Nothing is fetched.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
SYSTEMS = (
    "You are a helpful assistant.",
    "You answer questions about Atoll.",
    "Answer briefly.",
    "You are Pebble.",
)
NONSENSE = ("banana", "glitter", "mongo", "turbo", "yellow", "penguin", "widget", "plasma")
PUT_TOGETHER = ("error", "word", "command", "setting", "metric", "unknown")


@dataclass(frozen=True)
class Fact:
    """Something that can be asked in all the ways that phrases.toml has for its kind, or in its own."""

    kind: str
    name: str
    answer: str
    asked: tuple[str, ...] = ()


def documents() -> list[str]:
    """The pages of the project, whole."""
    paths = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/*/*.md")])
    return [path.read_text("utf-8") for path in paths if path.parent.name != "zh"]


def reference() -> list[str]:
    """What Python says of itself: its language reference, and one text of docstrings per module."""
    found = [topics[name] for name in sorted(topics)]
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if not {"site-packages", "test", "tests", "idlelib", "lib2to3", "idle_test"} & set(path.parts):
            text = "\n\n".join(docstrings(path))
            if len(text) > 200:
                found.append(text)
    return found


def docstrings(path: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                name = "" if isinstance(node, ast.Module) else f"{node.name}: "
                yield name + text


def page(name: str) -> str:
    """A page without emphasis, and with the names of other pages where it links to them."""
    folder = (ROOT / name).parent

    def named(link: re.Match[str]) -> str:
        path = (folder / link[2].partition("#")[0]).resolve()
        return f"`{path.relative_to(ROOT)}`" if path.suffix == ".md" else link[1]

    text = (ROOT / name).read_text("utf-8").replace("**", "")
    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", named, text)


def rows(text: str, columns: int) -> Iterator[list[str]]:
    """The rows of all tables that have so many columns, without their headings."""
    for above, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        cells = [cell.strip() for cell in re.split(r" \|(?= |$)", line[2:])[:-1]]
        if line.startswith("| ") and above.startswith("|") and len(cells) == columns:
            yield cells


def bare(cell: str) -> str:
    return cell.strip("`")


def sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def facts() -> list[Fact]:
    found = [*errors(), *words(), *commands(), *from_readme(), *settings(), *metrics(), *topics_of_pages()]
    return [fact for fact in found if fact.answer]


def errors() -> Iterator[Fact]:
    for code, cause, cure in rows(page("docs/errors.md"), 3):
        answer = f"{code}: {sentence(cause)} What to do: {sentence(cure)}"
        yield Fact("error", bare(code), answer)


def words() -> Iterator[Fact]:
    for names, meaning in rows(page("docs/glossary.md"), 2):
        for name in names.split(", "):
            yield Fact("word", name, f"{names.capitalize()}: {sentence(meaning)}")


def commands() -> Iterator[Fact]:
    for section in page("docs/cli.md").split("\n## ")[1:]:
        heading, _, body = section.partition("\n")
        name = bare(heading)
        yield Fact("command", name, f"`{name}`: {shortened(body)}")
        for option, meaning in rows(body, 2):
            if option.startswith("`--") and not meaning.startswith(("The home", "As for", "As JSON")):
                flag = option.split("`")[1]
                yield Fact("option", f"{flag} of {name}", f"`{name} {flag}`: {sentence(meaning)}")


def from_readme() -> Iterator[Fact]:
    readme = page("README.md")
    for task, command in rows(readme.split("## Operations in brief")[1].split("\n## ")[0], 2):
        yield Fact("task", task, f"To {task}: {sentence(command)}")
    for names, types, result in rows(readme.split("## How columns merge")[1].split("\n## ")[0], 3):
        for name in names.replace(" (default)", "").split(", "):
            yield Fact("policy", bare(name), f"{names}, for columns of type {types}: {sentence(result)}")


def settings() -> Iterator[Fact]:
    for key, default, flag, variable, meaning in rows(page("docs/settings.md"), 5):
        given = f" The default is {default}." if default else ""
        yield Fact(
            "setting", bare(key), f"{key}: {sentence(meaning)}{given} Flag {flag}, variable {variable}."
        )


def metrics() -> Iterator[Fact]:
    for name, _, meaning in rows(page("docs/metrics.md"), 3):
        yield Fact("metric", bare(name), f"{name}: {sentence(meaning)}")


def topics_of_pages() -> Iterator[Fact]:
    for path in sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/howto/*.md")]):
        name = str(path.relative_to(ROOT))
        title, _, body = page(name).partition("\n")
        title = title.lstrip("# ").partition(":")[0]
        title = title if title[1:2].isupper() else title[:1].lower() + title[1:]
        yield Fact("page", title, f"{shortened(body)} More is in `{name}`.")


def shortened(body: str, longest: int = 260) -> str:
    """The first paragraph, up to a sentence's end within the bound."""
    for paragraph in re.sub(r"```.*?```", "", body, flags=re.DOTALL).split("\n\n"):
        text = " ".join(paragraph.split())
        if text and not text.startswith(("|", "#", "-", "<")):
            ends = [m.end() for m in re.finditer(r"(?<!\d)[.!](?= |$)", text) if m.end() <= longest]
            return text[: ends[-1]] if ends else sentence(text[:longest].rstrip(":"))
    return ""


def questions(phrases: Mapping[str, Any]) -> list[Fact]:
    """What is asked about, each as often as it stands here; of what does not exist, the model says so."""
    made = facts()
    for said in phrases["said"]:
        made += [Fact("said", "", said["answer"], tuple(said["ask"]))] * 4
    unknown = "I do not know an error of that name. All of them are in `docs/errors.md`."
    made += [Fact("unknown", "-".join(pair), unknown) for pair in permutations(NONSENSE, 2)]
    return made


def chats(random: np.random.Generator) -> Iterator[list[dict[str, str]]]:
    """Without end: chats of one to three questions, worded as people type."""
    phrases = tomllib.loads((HERE / "phrases.toml").read_text("utf-8"))
    asked = questions(phrases)
    while True:
        order = random.permutation(len(asked))
        while len(order):
            turns = int(random.choice([1, 2, 3], p=[0.8, 0.14, 0.06]))
            chosen, order = order[:turns], order[turns:]
            messages = []
            if random.random() < 0.2:
                messages.append({"role": "system", "content": str(random.choice(SYSTEMS))})
            for index in chosen:
                ask = typed(worded(asked[index], phrases, random), random)
                messages.append({"role": "user", "content": ask})
                messages.append({"role": "assistant", "content": asked[index].answer})
            yield messages


def worded(fact: Fact, phrases: Mapping[str, Any], random: np.random.Generator) -> str:
    if fact.kind in PUT_TOGETHER and random.random() < 0.5:
        lead, tail = random.choice(phrases["lead"]), random.choice(phrases["tail"])
        return f"{lead} {'the word ' if fact.kind == 'word' else ''}{fact.name}{tail}"
    article = "an" if fact.name[:1] in "aeiou" else "a"
    return str(random.choice(fact.asked or phrases[fact.kind])).format(name=fact.name, a=article)


def typed(ask: str, random: np.random.Generator) -> str:
    """As somebody in a hurry types it, sometimes."""
    if random.random() < 0.3:
        ask = ask.replace("What is", "What's", 1)
    if random.random() < 0.3:
        ask = ask[:1].lower() + ask[1:]
    if random.random() < 0.3:
        ask = ask.rstrip("?.")
    if random.random() < 0.15:
        ask = str(random.choice(["Hi, ", "Please: ", "Quick question. ", "Hello! ", "Can you help? "])) + ask
    return ask
