"""What may be asked of this node's models over HTTP, wired: whether that needs a key.

The description of all that a node speaks is read by the same rules, and is there without models too.
"""

from __future__ import annotations

from starlette.routing import BaseRoute

from atoll.node import credentials
from atoll.node.config import Settings
from atoll.node.home import Home
from atoll.node.models import Models
from atoll.web.jobs import job_routes
from atoll.web.keys import APP, LOOPBACK, Keys, hash_key
from atoll.web.language import language_routes
from atoll.web.openapi import openapi_route
from atoll.web.retrieving import Retriever
from atoll.web.routed import routing_routes
from atoll.web.search import Search
from atoll.web.tensors import tensor_routes


def model_routes(models: Models | None, home: Home, settings: Settings, search: Search) -> list[BaseRoute]:
    http = settings.http
    is_near = http is not None and http.host in LOOPBACK
    is_open = settings.keys == "off" or (settings.keys == "auto" and is_near)
    if models is None:
        own = Keys(lambda: {hash_key(credentials.password(home)): APP}, is_needed=not is_open)
        return [openapi_route(own.check)]
    check = Keys(models.key_hashes, is_needed=not is_open).check
    retriever = Retriever(search, models.keys)
    return [
        openapi_route(check),
        *language_routes(models.serving, check, retriever, models.router, models.jobs, models.limits),
        *tensor_routes(models.serving, check, models.router, models.limits),
        *routing_routes(models.router, check, lambda: credentials.password(home)),
        *job_routes(models.jobs, check),
    ]
