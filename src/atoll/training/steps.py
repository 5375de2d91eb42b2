"""What every step of training shares: its shape, a folder that appears whole, and words for what is wrong.

A step reads a folder with a model and writes another one. It works in a folder beside its target, which is
renamed at the end: what has the target's name is complete, and what was begun goes on after a kill.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from atoll.domain.errors import ConfigError

Say: TypeAlias = Callable[[str], None]
Facts: TypeAlias = dict[str, Any]
MARK = "made-of.json"
FACTS = "training.json"


def require() -> None:
    """ConfigError where the extra is not installed; nothing is fetched from a hub from here on."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # who waits leaves the core to a node beside
    try:
        import torch  # noqa: F401
        from transformers.utils import logging as said
    except ImportError as error:
        raise ConfigError(
            "compress-missing",
            "training needs packages that are not installed",
            detail=f"{error}.",
            hint="Install them: pip install 'atoll[compress]'",
        ) from error
    said.disable_progress_bar()
    # What one of these libraries will change is nothing that who trains could do anything about.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def fingerprint(*parts: Any) -> str:
    """A hash of what a piece of work is made of; files and folders by what is in them."""
    digest = hashlib.sha256()
    for part in parts:
        for file in _all_files(part) if isinstance(part, Path) else ():
            digest.update(str(file.relative_to(part)).encode())
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        if not isinstance(part, Path):
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _all_files(path: Path) -> list[Path]:
    return sorted(file for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


@contextmanager
def made_whole(target: Path, made_of: str) -> Iterator[Path]:
    """A folder to work in, kept where it is interrupted, and renamed to the target in the end."""
    if target.exists():
        raise ConfigError(
            "target-exists", f"{target} is there already", hint="Choose another name, or remove it."
        )
    work = target.with_name(target.name + ".partial")
    if work.exists() and _mark_of(work) != made_of:
        raise ConfigError(
            "unfinished-differs",
            f"{work} is unfinished work of something else",
            detail="The model, the rows or an option are not those that it was begun with.",
            hint="Repeat what began it to go on with it, or remove it.",
        )
    try:
        work.mkdir(parents=True, exist_ok=True)
        write(work / MARK, json.dumps({"made_of": made_of}))
        yield work
        (work / MARK).unlink()
        work.rename(target)
    except Exception as error:
        # safetensors has an error of its own for a disk that is full.
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        raise ConfigError(
            "target-unwritable",
            f"could not write {target}",
            detail=f"{error}.",
            hint="Make room, or write elsewhere; the same command goes on from here.",
        ) from error
    finally:
        if [file.name for file in work.glob("*")] == [MARK]:  # nothing was begun
            shutil.rmtree(work)


def _mark_of(work: Path) -> str | None:
    try:
        found: Mapping[str, Any] = json.loads((work / MARK).read_text())
        return str(found["made_of"])
    except (OSError, ValueError, KeyError):
        return None


def write(path: Path, text: str) -> None:
    """The file has its old text or the new one, whatever happens."""
    other = path.with_name(path.name + ".new")
    with other.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    other.replace(path)


def write_facts(folder: Path, facts: Facts) -> None:
    write(folder / FACTS, json.dumps(facts, indent=1) + "\n")


def copy_beside(source: Path, target: Path) -> None:
    """What a folder has besides weights and what says how they are laid out: above all the tokenizer."""
    for file in filter(Path.is_file, source.iterdir()):
        is_own = file.suffix in (".safetensors", ".bin", ".gguf", ".pt") or file.name.endswith(".index.json")
        if not is_own and file.name not in (MARK, FACTS, "config.json"):
            shutil.copyfile(file, target / file.name)
    for file in source.glob("*/config.json"):  # how the vectors of an encoder are pooled
        (target / file.parent.name).mkdir(exist_ok=True)
        shutil.copyfile(file, target / file.parent.name / file.name)
