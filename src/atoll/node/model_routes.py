"""What may be asked of this node's models over HTTP, wired: whether that needs a key."""

from __future__ import annotations

from starlette.routing import BaseRoute

from atoll.node.config import Settings
from atoll.node.models import Models
from atoll.web.keys import LOOPBACK, Keys
from atoll.web.language import language_routes
from atoll.web.retrieving import Retriever
from atoll.web.search import Search
from atoll.web.tensors import tensor_routes


def model_routes(models: Models, settings: Settings, search: Search) -> list[BaseRoute]:
    http = settings.http
    is_near = http is not None and http.host in LOOPBACK
    is_open = settings.keys == "off" or (settings.keys == "auto" and is_near)
    keys = Keys(models.key_hashes, is_needed=not is_open)
    retriever = Retriever(search, models.readers)
    return [
        *language_routes(models.serving, keys.check, retriever),
        *tensor_routes(models.serving, keys.check),
    ]
