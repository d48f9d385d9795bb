"""metrics: what `GET /metrics` says is what the ledger says; what was counted is counted once; and nobody pays who
does not ask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from admitd import metrics
from admitd.acting import Acting
from admitd.api import build
from admitd.core.events import Event
from admitd.core.probing import Heard, Meant
from admitd.core.terms import Host
from admitd.doorkeeper import App, Doorkeeper
from admitd.eventstream import Streams
from admitd.flight import Flight
from admitd.gate import Gate
from admitd.journal import Journal
from admitd.processes.table import CannotSee
from admitd.tally import Tally
from tests.daemons import Daemon, Door, end_naps, flagged, read_all, request, running, served, service, sleeper, until
from tests.gates import ROOM, FakeTable, gate
from tests.prometheus import tool

MIB = 1 << 20
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
ROOT = Path(__file__).parents[1]


def read(text: bytes) -> Samples:
    """Every sample of an answer, by its name and labels; read by Prometheus' own parser, which is strict."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


class Scraped:
    """One answer."""

    def __init__(self, text: bytes) -> None:
        self.samples = read(text)
        self.names = {name for name, _ in self.samples}

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.samples.get((name, tuple(sorted(labels.items()))))


def scrape(door: Door) -> Scraped:
    reply = door.ask("GET", "/metrics")
    assert (reply.status, reply.header("content-type")) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return Scraped(reply.body)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("metrics")
    services = (
        sleeper("big", 1, 8000)
        + sleeper("other", 2, 8000)
        + sleeper("never", 3, 100, pinned=True)
        + flagged("small", folder, 500)
        + service("huge", 10_000, loaded_check_cmd="false")
    )
    with running(folder, services) as up:
        yield up


@pytest.fixture(autouse=True)
def nothing_held(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test leaves the module's daemon as it found it."""
    yield
    if "daemon" in request.fixturenames:
        up: Daemon = request.getfixturevalue("daemon")
        for held in up.capacity()["reservations"]:
            up.ask("DELETE", f"/reservations/{held['id']}")
        end_naps()
        (up.folder / "small.flag").unlink(missing_ok=True)
        until(lambda: up.capacity()["charged_mb"] == 100)


# What is said


def test_the_amounts_are_the_ledgers_own(daemon: Daemon) -> None:
    assert daemon.act("/services/big/load").status == 200
    daemon.ask("POST", "/admit", {"service": "small"})
    ledger, said = daemon.capacity(), scrape(daemon)
    for name, key in (("pool", "pool_mb"), ("pool_charged", "charged_mb"), ("pool_free", "free_mb")):
        assert said(f"admit_{name}_bytes") == ledger[key] * MIB
    for each in ledger["services"]:
        name = each["name"]
        assert said("admit_service_budget_bytes", service=name) == each["ram_budget_mb"] * MIB
        assert said("admit_service_charged_bytes", service=name) == each["charged_mb"] * MIB
        assert said("admit_service_processes", service=name) == len(each["pids"])
        assert said("admit_service_state", service=name, state=each["state"]) == 1
    assert said("admit_service_state", service="small", state="reserved") == 1
    assert said("admit_service_state", service="small", state="loaded") == 0
    assert said("admit_reservations") == 1
    assert said("admit_reservations_bytes") == 500 * MIB
    assert said("admit_service_measured_bytes", service="big") is not None
    assert said("admit_service_measured_bytes", service="other") is None, "what is not known is left out"
    assert said("admit_host_info", host="box") == 1
    assert said("admit_machine_visible") == 1


def test_pressure_is_one_of_its_levels(daemon: Daemon) -> None:
    said, level = scrape(daemon), daemon.capacity()["pressure"]["level"]
    levels = {word: said("admit_pressure", level=word) for word in ("normal", "warn", "critical")}
    assert levels == {word: float(word == level) for word in levels}


def test_promtool_finds_nothing_to_say(daemon: Daemon) -> None:
    daemon.act("/services/big/load")
    text = daemon.ask("GET", "/metrics").body
    checked = subprocess.run([tool("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_every_metric_is_in_the_docs_and_no_other(daemon: Daemon) -> None:
    daemon.act("/services/big/load")
    ours = {name for name in scrape(daemon).names if name.startswith("admit_")}
    ours = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in ours}
    lines = (ROOT / "docs" / "metrics.md").read_text().splitlines()
    told = {line.split("`")[1].partition("{")[0] for line in lines if line.startswith("| `admit_")}
    assert told >= ours, sorted(ours - told)
    assert told - ours <= {"admit_probes_total"}, "no service here has a probe"


# What is counted


def test_verdicts_are_counted_by_their_reasons(daemon: Daemon) -> None:
    before = scrape(daemon)
    for body in (
        {"service": "big", "holder_pid": os.getpid()},
        {"service": "other"},
        {"service": "other"},
        {"service": "other", "dry_run": True},
        {"service": "nobody"},
    ):
        daemon.ask("POST", "/admit", body)
    daemon.ask("GET", "/plan?service=other")
    after = scrape(daemon)

    def more(verdict: str, reason: str = "") -> float:
        counts = [said("admit_verdicts_total", verdict=verdict, reason=reason) for said in (before, after)]
        assert counts[0] is not None and counts[1] is not None
        return counts[1] - counts[0]

    assert more("admitted") == 1
    assert more("refused", "no-headroom") == 2
    assert more("refused", "exclusive") == 0, "what never happened is 0, so that its first time is a step"
    assert more("already_loaded") == 0
    decided = [said("admit_decision_duration_seconds_count") or 0 for said in (before, after)]
    assert decided[1] - decided[0] == 6, "a dry run is decided as well"


def test_who_waits_is_refused_once_and_admitted_once(daemon: Daemon) -> None:
    held = daemon.ask("POST", "/admit", {"service": "big"}).json()["reservation"]["id"]
    before = scrape(daemon)
    with daemon.line(60) as line:
        line.sendall(request("POST", "/admit", {"service": "other", "wait_s": 60}))
        until(lambda: scrape(daemon)("admit_waiting_requests") == 1, 30)
        decided = before("admit_decision_duration_seconds_count") or 0
        until(lambda: (scrape(daemon)("admit_decision_duration_seconds_count") or 0) > decided + 2, 30)
        daemon.ask("DELETE", f"/reservations/{held}")
        assert b"admitted" in read_all(line)
    after = scrape(daemon)
    for verdict, reason, more in (("refused", "no-headroom", 1), ("admitted", "", 1), ("refused", "queued", 0)):
        labels = {"verdict": verdict, "reason": reason}
        assert (after("admit_verdicts_total", **labels) or 0) - (before("admit_verdicts_total", **labels) or 0) == more


def test_looks_of_the_sentinel_count_and_buckets_add_up(daemon: Daemon) -> None:
    said = scrape(daemon)
    assert (said("admit_look_duration_seconds_count") or 0) > (said("admit_decision_duration_seconds_count") or 0)
    for name in ("look", "decision", "probe"):
        family = f"admit_{name}_duration_seconds"
        counts = [value for (each, _), value in said.samples.items() if each == f"{family}_bucket"]
        assert counts == sorted(counts)
        assert counts[-1] == said(f"{family}_count")
    assert (said("admit_sentinel_rounds_total") or 0) >= 1


def test_what_others_write_down_is_counted_too(daemon: Daemon) -> None:
    before = scrape(daemon)
    assert daemon.admit("load", "small").returncode == 0
    after = scrape(daemon)
    for kind in ("loaded", "admitted"):  # by the command; by the daemon itself, which hears that at once
        assert after("admit_events_total", kind=kind) == (before("admit_events_total", kind=kind) or 0) + 1


def test_the_sentinels_probes_and_wakings(tmp_path: Path) -> None:
    """A real one: it probes a port that answers with 404, and wakes a process that was stopped."""
    with running(tmp_path / "other", flagged("x", tmp_path)) as answers:
        url = f"http://127.0.0.1:{answers.port}/nothing/here"
        services = (
            sleeper("sleepy", 8)
            + sleeper("good", 9, probe={"url": url, "expect_status": 404})
            + "sentinel: {safelist: [sleepy], stopped_interval_s: 0.2, probe_interval_s: 0.2}\n"
        )
        with running(tmp_path / "watched", services) as up:
            for name in ("sleepy", "good"):
                assert up.act(f"/services/{name}/load").status == 200
            (pid,) = next(each["pids"] for each in up.capacity()["services"] if each["name"] == "sleepy")
            os.kill(pid, signal.SIGSTOP)
            until(lambda: scrape(up)("admit_wakes_total", service="sleepy") == 1, 60)
            until(lambda: (scrape(up)("admit_probes_total", service="good", result="answered") or 0) > 1, 60)
            said = scrape(up)
            assert said("admit_probes_total", service="good", result="failed") == 0
            assert said("admit_wakes_total", service="good") == 0
            assert said("admit_events_total", kind="woken") == 1
            assert (said("admit_probe_duration_seconds_count") or 0) > 1


# Hostile things, and what cannot be seen


def of(made: Gate, journal: Journal) -> Scraped:
    return Scraped(metrics.text(made.look(), made, journal, None))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def test_hostile_names_stay_one_label(tmp_path: Path, journal: Journal) -> None:
    name = 'a"} 1\nadmit_pool_bytes 7\n# {host="\\<b>é'
    host = Host(name, ROOM.host.physical, ROOM.host.reserved, ROOM.host.safety)
    said = of(gate(tmp_path, replace(ROOM, host=host)), journal)
    assert said("admit_host_info", host=name) == 1
    assert said("admit_pool_bytes") == 1_000 * MIB


def test_only_declared_names_and_known_kinds_become_labels(tmp_path: Path, journal: Journal) -> None:
    made = gate(tmp_path)
    for name in ("first", "gone", "x" * 1000, '"\n'):
        made.tally.probed([(Heard(name, True, "", 0.1), Meant.ANSWERED)])
        for kind in ("woken", "recovering", "recovered", "from_the_future"):
            made.tally.happened(Event(kind, "text", service=name))
    made.tally.happened(Event("woken", "a process that the safelist names"))
    said = of(made, journal)
    services = {dict(labels).get("service") for _, labels in said.samples} - {None}
    assert services == {"", "first", "second", "small"}
    assert said("admit_wakes_total", service="first") == 1
    assert said("admit_wakes_total", service="") == 4
    assert said("admit_recoveries_total", service="first") == said("admit_recovered_total", service="first") == 1
    assert said("admit_events_total", kind="woken") == 5
    assert said("admit_events_total", kind="other") == 4


def test_a_journal_that_cannot_be_read_costs_nothing_but_its_events(tmp_path: Path) -> None:
    broken = Journal(tmp_path / "journal.jsonl")
    broken.path.mkdir()
    said = of(gate(tmp_path / "state"), broken)
    assert said("admit_pool_bytes") == 1_000 * MIB


def test_counts_from_many_threads_are_all_there() -> None:
    tally = Tally()
    code = [lambda: tally.looked(0.002), lambda: tally.happened(Event("woken", "x"))]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: code[number % 2](), range(2_000)))
    counted = tally.counted(Journal(Path("/nonexistent/journal.jsonl")))
    assert counted.looks.up_to[-1][1] == 1_000
    assert dict(counted.looks.up_to)[0.001] == 0 and dict(counted.looks.up_to)[0.0025] == 1_000
    assert counted.events == {("woken", ""): 1_000}


def test_where_the_machine_cannot_be_seen_it_says_that(tmp_path: Path, journal: Journal) -> None:
    class Blind(FakeTable):
        def look(self, *_: Any) -> Any:
            raise CannotSee("no /proc")

    flight = Flight(gate(tmp_path, table=Blind()))

    def app(port: int) -> App:
        return Doorkeeper(build(flight, Acting(flight, os.environ), Streams(journal), "t", ""), port)

    try:
        with served(app) as door:
            said = scrape(door)
            assert said("admit_machine_visible") == 0
            assert said("admit_pool_bytes") is None
            door.ask("POST", "/admit", {"service": "first"})
            assert scrape(door)("admit_verdicts_total", verdict="refused", reason="unseen") == 1
            assert not any(name.startswith("admit_sentinel") for name in said.names), "none runs here"
    finally:
        flight.close()


# Who may ask, and who pays


def test_the_doorkeeper_stands_before_it_and_no_token_is_needed(daemon: Daemon) -> None:
    assert daemon.ask("GET", "/metrics", host="evil.example").status == 421
    assert daemon.ask("GET", "/metrics", headers={"Origin": "http://evil.example"}).status == 403
    assert daemon.ask("POST", "/metrics", {}).status == 405
    assert daemon.ask("HEAD", "/metrics").status == 200


def test_its_library_comes_when_somebody_asks() -> None:
    code = "import sys, admitd.daemon, admitd.api, admitd.acting, admitd.sentinel, admit_cli.inside"
    code += "; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_librarys_own_registry_stays_as_it_was(tmp_path: Path, journal: Journal) -> None:
    of(gate(tmp_path), journal)
    of(gate(tmp_path), journal)
    assert not [name for family in REGISTRY.collect() if (name := family.name).startswith("admit")]
