"""metrics: what `GET /metrics` says, as Prometheus reads it: one scene, as the ledger has it, and what was counted.

Nothing is added up here but by headroom, and nothing is kept: each answer has a registry of its own, so no global one
holds anything of ours. Labels have few values: names of services that capacity.yaml declares, and closed sets of words.
An empty `service` is what concerns none of them. What is not known is left out, and never zero.

Names: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from admitd import __version__
from admitd.core import headroom, wire
from admitd.core.condition import Condition
from admitd.core.events import KINDS
from admitd.core.ledger import Account, Ledger
from admitd.core.probing import Meant
from admitd.core.terms import RAM, Amounts, Level, Service, State
from admitd.gate import Gate, Scene
from admitd.journal import Journal
from admitd.tally import OTHER, VERDICTS, Counted, Spread

if TYPE_CHECKING:
    from admitd.sentinel import Health

KIND: Final = "text/plain; version=0.0.4; charset=utf-8"

Values = TypeVar("Values", bound=tuple[str, ...])
"""The values of a metric's labels."""


@dataclass(frozen=True, slots=True)
class _Sight:
    """What one answer goes by."""

    scene: Scene | None
    services: Mapping[str, Service]
    counted: Counted
    lost: int
    health: Health | None
    conditions: Mapping[str, Condition]


def text(
    scene: Scene | None,
    gate: Gate,
    journal: Journal,
    health: Health | None,
    conditions: Mapping[str, Condition] = MappingProxyType({}),
) -> bytes:
    """The answer. `scene`: None where the machine could not be seen; `health`: None where no sentinel runs.
    `conditions`: what the sentinel knows of each service beside the look, as GET /capacity goes by it."""
    services = (gate.capacity() if scene is None else scene.capacity).services
    sight = _Sight(scene, services, gate.tally.counted(journal), journal.failures, health, conditions)
    registry = CollectorRegistry()
    registry.register(_Seen(sight))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Seen(Collector):
    def __init__(self, sight: _Sight) -> None:
        self._sight = sight

    def collect(self) -> Iterator[Metric]:
        sight = self._sight
        yield _one("admit_build_info", "The version of admit, which is 1.", 1, {"version": __version__})
        seen = "Whether the process table and the reservations could be seen: 1, or 0, and then no amounts are told."
        yield _one("admit_machine_visible", seen, int(sight.scene is not None))
        if sight.scene is not None:
            yield from _host(sight.scene)
            yield from _services(sight.scene.ledger, sight.conditions)
            yield from _waiting(sight.scene)
        yield from _counts(sight)
        yield from _probes(sight)
        yield from _events(sight)
        if sight.health is not None:
            yield from _sentinel(sight.health)


def _host(scene: Scene) -> Iterator[Metric]:
    ledger, reading = scene.ledger, scene.reading
    host = ledger.capacity.host
    yield _one("admit_host_info", "The host that capacity.yaml describes, which is 1.", 1, {"host": host.name})
    for name, what, amounts in (
        ("admit_host_physical_bytes", "Physical memory of the host.", host.physical),
        ("admit_host_reserved_bytes", "Memory kept for the system and the user's own apps.", host.reserved),
        ("admit_host_safety_bytes", "Memory that is never admitted into.", host.safety),
        ("admit_pool_bytes", "What services may share: physical minus reserved minus safety.", ledger.pool),
        ("admit_pool_charged_bytes", "What is charged against the pool.", ledger.charged),
        ("admit_pool_free_bytes", "Pool minus all charges; negative when over-committed.", ledger.free),
        (
            "admit_undeclared_charged_bytes",
            "What is charged to no declared service: foreign reservations, processes that could not be read.",
            headroom.total(extra.charge for extra in ledger.extras),
        ),
    ):
        yield _one(name, what, _ram(amounts))
    if reading.available is not None:
        yield _one("admit_available_bytes", "Memory that the system itself says is available.", _ram(reading.available))
    what = "Memory pressure of the whole machine: 1 for the level it is at, 0 for all where the system would not say."
    levels = {(each.word,): int(each is reading.level) for each in Level}
    yield _each("admit_pressure", what, ("level",), levels)


def _services(ledger: Ledger, conditions: Mapping[str, Condition]) -> Iterator[Metric]:
    accounts = [ledger.account(service) for service in ledger.capacity.services.values()]

    def told(name: str, what: str, value: Callable[[Account], float | None]) -> Metric:
        values = {(account.service.name,): value(account) for account in accounts}
        return _each(name, what, ("service",), {key: known for key, known in values.items() if known is not None})

    yield told(
        "admit_service_budget_bytes", "What it may hold at its worst, as declared.", lambda a: _ram(a.service.budget)
    )
    yield told("admit_service_charged_bytes", "What it is charged.", lambda a: _ram(a.charge))
    yield told(
        "admit_service_measured_bytes",
        "What its processes really hold; left out while there are none.",
        lambda a: None if a.measured is None else _ram(a.measured),
    )
    yield told("admit_service_processes", "Its live processes.", lambda a: len(a.processes))
    are = {a.service.name: wire.state(a, conditions.get(a.service.name)) for a in accounts}
    states = {(name, state.value): int(found is state) for name, found in are.items() for state in State}
    yield _each("admit_service_state", "1 for the state that it is in, 0 for the others.", ("service", "state"), states)


def _waiting(scene: Scene) -> Iterator[Metric]:
    held = scene.ledger.reservations
    yield _one(
        "admit_reservations", "Reservations that stand: loads that were admitted and are not visible yet.", len(held)
    )
    promised = headroom.total(each.budget for each in held)
    yield _one("admit_reservations_bytes", "What those reservations promise.", _ram(promised))
    yield _one("admit_waiting_requests", "Requests that wait in the queue.", len(scene.ledger.waiters))
    yield _one("admit_warnings", "Warnings that admit status shows.", len(scene.ledger.warnings))
    yield _one("admit_processes", "Processes that the last look saw on the machine.", scene.look.count)


def _counts(sight: _Sight) -> Iterator[Metric]:
    counted = sight.counted
    told = {verdict: counted.verdicts.get(verdict, 0) for verdict in VERDICTS}
    what = "Verdicts given, by verdict and, for a refusal, its reason (docs/refusals.md). Dry runs do not count."
    yield _each("admit_verdicts", what, ("verdict", "reason"), told, CounterMetricFamily)
    yield _histogram("admit_look_duration_seconds", "How long looks at the process table took.", counted.looks)
    what = "How long decisions took, the look, the checks and the lock included."
    yield _histogram("admit_decision_duration_seconds", what, counted.decisions)
    what = "Entries of the journal that could not be written."
    yield _each("admit_journal_lost", what, (), {(): sight.lost}, CounterMetricFamily)


def _probes(sight: _Sight) -> Iterator[Metric]:
    asked = [name for name, service in sight.services.items() if service.probe is not None]
    came = {(name, word.value): sight.counted.probes.get((name, word), 0) for name in asked for word in Meant}
    what = "Probes that the sentinel sent, by what came of them."
    yield _each("admit_probes", what, ("service", "result"), came, CounterMetricFamily)
    what = "How long those probes took, answered or not."
    yield _histogram("admit_probe_duration_seconds", what, sight.counted.probe_times)


def _events(sight: _Sight) -> Iterator[Metric]:
    """Wakings and recoveries for each service, and every kind of event for the whole machine."""
    for name, what, kind in (
        ("admit_wakes", "Stopped processes that the sentinel woke (SIGCONT).", "woken"),
        ("admit_recoveries", "Recoveries of hung services that the sentinel began.", "recovering"),
        ("admit_recovered", "Recoveries after which the service was back.", "recovered"),
    ):
        counts = dict.fromkeys(((name,) for name in ("", *sight.services)), 0)
        for (found, service), count in sight.counted.events.items():
            if found == kind:
                counts[(service if service in sight.services else "",)] += count
        yield _each(name, what, ("service",), counts, CounterMetricFamily)
    kinds = dict.fromkeys(((kind,) for kind in (*sorted(KINDS), OTHER)), 0)
    for (found, _), count in sight.counted.events.items():
        kinds[(found,)] += count
    yield _each("admit_events", "Events written down, by kind (admit events).", ("kind",), kinds, CounterMetricFamily)


def _sentinel(health: Health) -> Iterator[Metric]:
    rounds, errors = "Rounds of the sentinel that ended.", "Rounds of the sentinel that failed."
    yield _each("admit_sentinel_rounds", rounds, (), {(): health.rounds}, CounterMetricFamily)
    yield _each("admit_sentinel_errors", errors, (), {(): health.errors}, CounterMetricFamily)
    if health.last_round_s_ago is not None:
        what = "How long ago its last round ended."
        yield _one("admit_sentinel_last_round_age_seconds", what, health.last_round_s_ago)


def _one(name: str, what: str, value: float, labels: Mapping[str, str] | None = None) -> Metric:
    labels = labels or {}
    return _each(name, what, tuple(labels), {tuple(labels.values()): value})


def _each(
    name: str,
    what: str,
    labels: Sequence[str],
    values: Mapping[Values, float],
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily] = GaugeMetricFamily,
) -> Metric:
    """One metric, with a value for each set of labels. A counter gets its `_total` here."""
    family = kind(name, what, labels=labels)
    for given, value in values.items():
        family.add_metric(given, value)
    return family


def _histogram(name: str, what: str, spread: Spread) -> Metric:
    buckets = [("+Inf" if math.isinf(bound) else str(bound), float(count)) for bound, count in spread.up_to]
    return HistogramMetricFamily(name, what, buckets=buckets, sum_value=spread.sum_s)


def _ram(amounts: Amounts) -> int:
    return amounts.get(RAM, 0)
