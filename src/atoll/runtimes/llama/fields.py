"""Checks for the fields of a request, each giving back what the engine may have. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.domain.errors import DataError
from atoll.runtimes.llama import schemas

MESSAGES_MAX = 4096
PROMPTS_MAX = 32
STOPS_MAX, STOP_LENGTH_MAX = 16, 256
BIASES_MAX = 300
TOP_LOGPROBS_MAX = 20
TOOLS_MAX = 128
PARTS = frozenset(
    (
        "text",
        "input_text",
        "output_text",
        "refusal",
        "tool_use",
        "tool_result",
        "thinking",
        "redacted_thinking",
    )
)


@dataclass(frozen=True)
class Bounds:
    """What the loaded model can do."""

    context_tokens: int
    parallel: int
    adapters: Sequence[str] = ()


Check = Callable[[str, Any, Bounds], Any]


def refused(problem: str, hint: str | None = None) -> DataError:
    return DataError("request-refused", f"cannot answer the request: {problem}", hint=hint)


def number(low: float, high: float) -> Check:
    def check(name: str, value: Any, bounds: Bounds) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise refused(f'"{name}" has to be a number from {low:g} to {high:g}')
        return value

    return check


def whole(low: int, high: int) -> Check:
    def check(name: str, value: Any, bounds: Bounds) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise refused(f'"{name}" has to be a whole number from {low:,} to {high:,}')
        return value

    return check


def flag(name: str, value: Any, bounds: Bounds) -> Any:
    if not isinstance(value, bool):
        raise refused(f'"{name}" has to be true or false')
    return value


def text(name: str, value: Any, bounds: Bounds) -> Any:
    if not isinstance(value, str):
        raise refused(f'"{name}" has to be a text')
    return value


def tokens(name: str, value: Any, bounds: Bounds) -> int:
    """Never more than fit."""
    return min(int(whole(1, 1 << 53)(name, value, bounds)), bounds.context_tokens)


def choices(name: str, value: Any, bounds: Bounds) -> Any:
    return whole(1, bounds.parallel)(name, value, bounds)


def seed(name: str, value: Any, bounds: Bounds) -> int:
    return int(whole(-(1 << 63), (1 << 64) - 1)(name, value, bounds)) % (1 << 32)


def stops(name: str, value: Any, bounds: Bounds) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) > STOPS_MAX:
        raise refused(f'"{name}" has to be a text or a list of {STOPS_MAX} at most')
    if any(not isinstance(stop, str) or len(stop) > STOP_LENGTH_MAX for stop in found):
        raise refused(f'"{name}" has to hold texts of {STOP_LENGTH_MAX} characters at most')
    return found


def messages(name: str, value: Any, bounds: Bounds) -> Any:
    """Texts, and what tools were called with. The model does not look at pictures or files."""
    if isinstance(value, str) and name != "messages":
        return value
    if not isinstance(value, list) or not 1 <= len(value) <= MESSAGES_MAX:
        raise refused(f'"{name}" has to be a list of 1 to {MESSAGES_MAX:,} messages')
    for message in value:
        if not isinstance(message, dict):
            raise refused(f'"{name}" has to hold objects')
        if not isinstance(message.get("role", ""), str):
            raise refused("the role of a message has to be a text")
        parts(message.get("content"))
    return value


def parts(content: Any) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise refused("the content of a message has to be a text or a list")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in PARTS:
            raise refused("a message holds something that is not a text", "This model only reads texts.")
        if not isinstance(part.get("text", ""), str):
            raise refused("the text of a message has to be a text")
        if kind == "tool_result":
            parts(part.get("content"))


def system(name: str, value: Any, bounds: Bounds) -> Any:
    parts(value)
    return value


def prompts(name: str, value: Any, bounds: Bounds) -> Any:
    """A text, several, or tokens instead of texts."""
    several = value if isinstance(value, list) and not _is_tokens(value) else [value]
    if not 1 <= len(several) <= PROMPTS_MAX:
        raise refused(f'"{name}" has to be 1 to {PROMPTS_MAX} prompts')
    if any(not isinstance(prompt, str) and not _is_tokens(prompt) for prompt in several):
        raise refused(f'"{name}" has to hold texts or lists of tokens')
    return value


def _is_tokens(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(token, int) and not isinstance(token, bool) for token in value)
        and min(value) >= 0
        and max(value) < 1 << 31
    )


def biases(name: str, value: Any, bounds: Bounds) -> Any:
    if not isinstance(value, dict) or len(value) > BIASES_MAX:
        raise refused(f'"{name}" has to be an object of {BIASES_MAX} tokens at most')
    for token, bias in value.items():
        if not str(token).isascii() or not str(token).isdigit():
            raise refused(f'"{name}" has to name tokens by their numbers')
        number(-100, 100)(name, bias, bounds)
    return value


def tools(name: str, value: Any, bounds: Bounds) -> Any:
    """Their schemas become grammars together."""
    if not isinstance(value, list) or len(value) > TOOLS_MAX:
        raise refused(f'"{name}" has to be a list of {TOOLS_MAX} at most')
    if not all(isinstance(tool, dict) for tool in value):
        raise refused(f'"{name}" has to hold objects')
    schemas.check(value)
    return value


def form(name: str, value: Any, bounds: Bounds) -> Any:
    """`response_format`, or `text` of a response, which the engine does not follow."""
    if not isinstance(value, dict):
        raise refused(f'"{name}" has to be an object')
    if name == "text":
        kind = value.get("format")
        if isinstance(kind, dict) and kind.get("type", "text") != "text":
            raise refused("a format cannot be asked on this path", "Ask it on /v1/chat/completions.")
        return None
    schemas.check(value)
    return value


def choice(name: str, value: Any, bounds: Bounds) -> Any:
    if not isinstance(value, str | dict):
        raise refused(f'"{name}" has to be a text or an object')
    return value


def plain(name: str, value: Any, bounds: Bounds) -> Any:
    """An object of texts, numbers, true and false."""
    if not isinstance(value, dict) or any(not isinstance(v, str | int | float) for v in value.values()):
        raise refused(f'"{name}" has to be an object of texts, numbers, true and false')
    return value


def template_values(name: str, value: Any, bounds: Bounds) -> Any:
    """What a template is given beside the conversation, which these values must not replace."""
    found = plain(name, value, bounds)
    return {key: v for key, v in found.items() if key not in ("messages", "tools", "add_generation_prompt")}
