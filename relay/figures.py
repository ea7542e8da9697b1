"""Figures of several processes as one: texts in Prometheus' format in, their sum out.

Pure: texts in, a text out."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_OF_A_LIVING_PROCESS = frozenset({"gauge"})


class _Found(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def summed(texts: Iterable[bytes]) -> bytes:
    """Each figure, named by its labels, added up over all texts."""
    families: dict[str, Metric] = {}
    totals: dict[tuple[str, str, tuple[tuple[str, str], ...]], float] = {}
    for text in texts:
        for family in text_string_to_metric_families(text.decode()):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    key = (family.name, sample.name, tuple(sorted(sample.labels.items())))
                    totals[key] = totals.get(key, 0.0) + sample.value
    for (family_name, name, labels), value in totals.items():
        families[family_name].add_sample(name, dict(labels), value)
    return _written(families.values())


def counters_only(text: bytes) -> bytes:
    """What stays true of a process that is gone."""
    return _written(
        family
        for family in text_string_to_metric_families(text.decode())
        if family.type not in _OF_A_LIVING_PROCESS
    )


def _written(families: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Found(families))
    return generate_latest(registry)
