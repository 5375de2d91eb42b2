"""The numbers of a node, in a Prometheus registry of its own.

What is counted elsewhere is asked for when somebody looks, so a node that nobody watches spends nothing on
it. Other parts add their numbers with `add`, giving a function that yields metric families.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class _Asked(Collector):
    def __init__(self, ask: Callable[[], Iterable[Metric]]) -> None:
        self._ask = ask

    def collect(self) -> Iterable[Metric]:
        return self._ask()

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are not known before somebody asks."""
        return ()


class Metrics:
    """A registry and the ways to put numbers into it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def add(self, ask: Callable[[], Iterable[Metric]]) -> None:
        """Ask this function for metric families whenever the metrics are read."""
        self.registry.register(_Asked(ask))


def gauge(name: str, help: str, value: float, /, **labels: str) -> Metric:
    """One gauge with one sample."""
    family = GaugeMetricFamily(name, help, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def gauges(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    """One gauge with a sample for each value of a label."""
    family = GaugeMetricFamily(name, help, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def counter(name: str, help: str, value: float, /, **labels: str) -> Metric:
    """One counter with one sample."""
    family = CounterMetricFamily(name, help, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family
