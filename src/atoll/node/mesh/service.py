"""A node's place in the mesh: its links, its gateway for PostgreSQL, and what keeps them right."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from atoll import __version__
from atoll.domain.errors import ConfigError, LinkError
from atoll.identity.certificate import Identity, PeerIdentity
from atoll.link.gateway import Gateway
from atoll.link.peers import Links
from atoll.link.settings import LinkSettings
from atoll.link.stream import Stream
from atoll.node.config import Settings
from atoll.node.home import Home
from atoll.node.mesh import admission, membership
from atoll.node.mesh.acquaintances import Acquaintances
from atoll.node.mesh.checking import Checking
from atoll.node.mesh.errands import Errands
from atoll.node.mesh.orphans import Orphans
from atoll.node.mesh.pulse import Pulse
from atoll.node.mesh.reconcile import Reconcile
from atoll.node.mesh.rollups import Rollups
from atoll.node.mesh.scrub import Scrub
from atoll.node.postgres.server import Postgres
from atoll.node.report import Readiness
from atoll.observe.metrics import gauge

log = logging.getLogger(__name__)


class Mesh:
    def __init__(
        self,
        home: Home,
        settings: Settings,
        postgres: Postgres,
        readiness: Readiness,
        identity: Identity,
        boot: str,
    ) -> None:
        own_row = membership.own_row(identity, settings)
        invitations = None
        if membership.may_admit(home):
            invitations = admission.Admission(postgres, admission.load_authority(home.keys))
        self.links = Links(
            identity,
            release=__version__,
            boot=boot,
            is_revoked=lambda number, serial: self._reconcile.is_revoked(number, serial),
            invitations=invitations,
            settings=LinkSettings(
                compression=settings.link_compression,  # type: ignore[arg-type]
                rate_bytes_per_second=settings.link_rate,
            ),
            listen=(settings.link.host, settings.link.port) if settings.link else None,
            dial_overrides={name: str(address) for name, address in settings.dial.items()},
            renumbered=lambda former, peer: self._acquaintances.note_renumbered(former, peer),
        )
        self._gateway = Gateway(
            self.links,
            folder=home.peers,
            postgres_socket=postgres.socket,
            owner_uid=None if postgres.account.is_self else postgres.account.uid,
        )
        self._reconcile = Reconcile(
            postgres,
            self.links,
            self._gateway,
            readiness,
            sockets=home.peers,
            own_row=own_row,
        )
        self._scrub = Scrub(postgres, self.links, share=settings.receipts, is_auto=settings.repair == "auto")
        self._orphans = Orphans(postgres)
        self._rollups = Rollups(postgres)
        self._checking = Checking(postgres, self.links)
        self._errands = Errands(
            postgres,
            {
                "check": self._checking.check,
                "repair": self._scrub.mend,
                "orphans": self._orphans.look,
            },
        )
        self._pulse = Pulse(postgres, self.links)
        self._acquaintances = Acquaintances(
            postgres, self.links, readiness, boot=boot, identity=identity, own_row=own_row
        )
        self.links.serve_streams(self._serve)

    async def run(self) -> None:
        try:
            await self.links.start()
        except OSError as error:
            raise ConfigError(
                "port-in-use",
                f"cannot listen for links: {error.strerror or error}",
                hint="Choose another --link HOST:PORT.",
            ) from error
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._reconcile.run())
                group.create_task(self._errands.run())
                group.create_task(self._pulse.run())
                group.create_task(self._scrub.run())
                group.create_task(self._orphans.run())
                group.create_task(self._rollups.run())
                group.create_task(self._acquaintances.run())
        finally:
            await self._gateway.stop()
            await self.links.stop()
            await self._checking.close()

    async def _serve(self, peer: PeerIdentity, stream: Stream) -> None:
        """A peer's connection to our PostgreSQL, once it is known that what it has seen of us is here."""
        if not await self._acquaintances.may_read(peer.number):
            stream.close(LinkError("not-compared", "it is not known yet what the peer has seen of this node"))
            return
        await self._gateway.serve(peer, stream)

    def numbers(self) -> Iterable[Metric]:
        for name, help_text in NUMBERS.items():
            if name in self._reconcile.numbers:
                yield gauge(f"atoll_{name}", help_text, self._reconcile.numbers[name])
        yield from self._link_numbers()
        yield from self._scrub.numbers()
        yield from self._orphans.numbers()
        refused = CounterMetricFamily(
            "atoll_link_refusals", "Connections refused, by reason.", labels=["reason"]
        )
        for reason, count in self.links.refusals().items():
            refused.add_metric([reason], count)
        yield refused

    def _link_numbers(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("atoll_link_up", "1 while there is a link to the peer.", labels=["peer"])
        rtt = GaugeMetricFamily("atoll_link_rtt_seconds", "Round trip to the peer.", labels=["peer"])
        lag = GaugeMetricFamily(
            "atoll_unconfirmed_wal_bytes", "WAL that the peer has not confirmed.", labels=["peer"]
        )
        sent = CounterMetricFamily("atoll_link_bytes", "Bytes on the wire.", labels=["peer", "direction"])
        again = CounterMetricFamily("atoll_link_reconnects", "Links made anew.", labels=["peer"])
        for report in self.links.report():
            up.add_metric([report.name], float(report.state == "up"))
            if report.rtt_seconds is not None:
                rtt.add_metric([report.name], report.rtt_seconds)
            if report.number in self._reconcile.lag:
                lag.add_metric([report.name], self._reconcile.lag[report.number][0])
            sent.add_metric([report.name, "in"], report.wire_in_bytes)
            sent.add_metric([report.name, "out"], report.wire_out_bytes)
            again.add_metric([report.name], report.reconnects)
        yield from (up, rtt, lag, sent, again)


NUMBERS = {
    "tables": "Shared tables on this node.",
    "tables_with_problems": "Shared tables that could not be installed here.",
    "parked": "Changes that could not be merged yet.",
    "conflicts": "Conflicts listed.",
    "log_changes": "Changes in the log, estimated.",
    "log_bytes": "Size of the change log.",
    "feeds": "Feeds that follow the change log.",
}
