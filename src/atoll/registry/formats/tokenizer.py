"""What a folder says of the beginning of a text: who trains a model has to begin as who serves it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def adds_begin(tokenizer: Mapping[str, Any], config: Mapping[str, Any], begin: str) -> bool:
    """By tokenizer_config.json if it says so, else by what tokenizer.json does after a text was cut."""
    if isinstance(told := config.get("add_bos_token"), bool):
        return told
    return f'"{begin}"' in json.dumps(tokenizer.get("post_processor"), ensure_ascii=False)
