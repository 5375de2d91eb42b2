"""Put trained models into src/atoll/start, with start.json, from what the files say of themselves.

python ship.py bearing digits keyword pebble
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "models"
START = ROOT / "src" / "atoll" / "start"
FILES = {
    "bearing": "bearing.onnx",
    "digits": "digits.onnx",
    "keyword": "keyword.onnx",
    "pebble": "pebble.gguf",
}
DATA = {
    "bearing": "synthetic, made by the recipe",
    "digits": "UCI Optical Recognition of Handwritten Digits, CC BY 4.0",
    "keyword": "synthetic, spoken by eSpeak NG, made by the recipe",
    "pebble": "Atoll's documents, Apache-2.0; Python's docstrings and language reference, PSF-2.0",
}


def of_onnx(path: Path) -> dict[str, Any]:
    import onnx

    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    known = {key: said[key] for key in ("description", "license", "input")}
    return {**known, "skills": ["infer"], "labels": json.loads(said["labels"])}


def of_gguf(path: Path) -> dict[str, Any]:
    import gguf

    fields = gguf.GGUFReader(path).fields
    known = {key: fields[f"general.{key}"].contents() for key in ("description", "license")}
    context = fields["llama.context_length"].contents()
    return {**known, "input": f"a chat of at most {context} tokens", "skills": ["generate"]}


def entry(name: str) -> dict[str, Any]:
    path = START / FILES[name]
    content = path.read_bytes()
    facts = of_gguf(path) if path.suffix == ".gguf" else of_onnx(path)
    facts |= {"data": DATA[name], "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return {"name": name, "file": path.name, **facts}


def main() -> None:
    for name in sys.argv[1:]:
        shutil.copyfile(BUILT / name / FILES[name], START / FILES[name])
    listed = [entry(name) for name in FILES if (START / FILES[name]).exists()]
    (START / "start.json").write_text(json.dumps(listed, indent=2, ensure_ascii=False) + "\n", "utf-8")
    for model in listed:
        print(f"{model['file']:>12}  {model['bytes']:>9,} bytes  {model['sha256'][:12]}")


if __name__ == "__main__":
    main()
