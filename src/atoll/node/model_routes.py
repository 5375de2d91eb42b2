"""What may be asked of this node's models over HTTP, wired: who may ask, and which models there are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from starlette.requests import Request
from starlette.routing import BaseRoute

from atoll.node.config import Settings
from atoll.node.models import Models
from atoll.runtimes.contract import Runtime, Skill
from atoll.serving.service import Serving
from atoll.web.keys import LOOPBACK, Keys
from atoll.web.language import language_routes
from atoll.web.tensors import ModelWord, tensor_routes

PLATFORM = "onnxruntime_onnx"


def model_routes(models: Models, settings: Settings) -> list[BaseRoute]:
    http = settings.http
    is_near = http is not None and http.host in LOOPBACK
    is_open = settings.keys == "off" or (settings.keys == "auto" and is_near)
    keys = Keys(models.key_hashes, is_needed=not is_open)

    async def check(request: Request) -> None:
        keys.check(request)

    return [*language_routes(models.serving, keys), *tensor_routes(_Tensors(models.serving), check)]


class _Tensors:
    """The models that answer with tensors. One that is not loaded is ready all the same: it is when asked."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def models(self) -> Sequence[ModelWord]:
        return [
            ModelWord(
                word.model,
                word.version,
                PLATFORM,
                word.facts.inputs,
                word.facts.outputs,
                is_ready=word.problem is None,
            )
            for word in self._serving.models()
            if Skill.INFER in word.facts.skills
        ]

    def use(self, name: str, version: str | None) -> AbstractAsyncContextManager[Runtime]:
        return self._serving.use(name, version)
