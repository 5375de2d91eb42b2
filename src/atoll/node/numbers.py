"""The numbers of the node itself: who it is, whether it is ready, its PostgreSQL and its disk."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import Metric

from atoll import __version__
from atoll.node.config import Settings
from atoll.node.keeping import Keeper
from atoll.node.postgres.disk import DiskWatch
from atoll.node.report import Readiness
from atoll.observe.metrics import counter, gauge


def node_numbers(
    settings: Settings, readiness: Readiness, disk: DiskWatch | None, keeper: Keeper
) -> Iterable[Metric]:
    """The node's own metric families, as they are now."""
    yield gauge(
        "atoll_node_info",
        "The node itself; always 1.",
        1,
        name=settings.name,
        region=settings.region,
        tier=settings.tier,
        version=__version__,
        postgres=str(settings.postgres),
    )
    yield gauge("atoll_ready", "1 while the node is ready.", readiness.is_ready)
    yield gauge("atoll_postgres_up", "1 while PostgreSQL answers.", keeper.answers.is_set())
    yield counter("atoll_postgres_restarts", "Times that PostgreSQL ended unasked.", keeper.restarts)
    if disk is None:
        return
    yield gauge("atoll_disk_free_bytes", "Free bytes on the disk of the home.", disk.free)
    yield gauge("atoll_disk_full", "1 while writes are refused for want of disk.", disk.is_full)
