"""config/prometheus and config/grafana: a real Prometheus scrapes a real daemon, and answers every query in them."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.daemons import Daemon, flagged, free_port, running, sleeper
from tests.prometheus import tool

CONFIG = Path(__file__).parents[1] / "config"
RULES = CONFIG / "prometheus" / "admit.rules.yml"
RULE_TESTS = CONFIG / "prometheus" / "admit.rules.test.yml"
BOARD = CONFIG / "grafana" / "admit.json"
PATIENCE_S = 60.0


def promtool(*words: str | Path) -> None:
    done = subprocess.run([tool("promtool"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def board_queries() -> list[tuple[str, str]]:
    """Title and expression of whatever the dashboard asks for, as Grafana would ask it."""
    panels = json.loads(BOARD.read_text())["panels"]
    return [
        (panel["title"], target["expr"].replace("$instance", "box").replace("$__rate_interval", "1m"))
        for panel in panels
        for target in panel["targets"]
    ]


# The files


def test_the_configuration_and_the_rules_are_valid() -> None:
    promtool("check", "config", CONFIG / "prometheus" / "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", RULES)


def test_the_rules_do_what_their_tests_say() -> None:
    promtool("test", "rules", RULE_TESTS)


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    cases = [case for each in tests for case in each["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    quiet = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    assert fires == quiet == {alert["alert"] for alert in alerts()}


def test_every_alert_names_the_next_command() -> None:
    for alert in alerts():
        assert alert["annotations"]["next"].startswith("admit "), alert["alert"]
        assert alert["labels"]["severity"] in ("warning", "critical")


def test_the_panels_of_the_dashboard_lie_beside_one_another() -> None:
    board = json.loads(BOARD.read_text())
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not mine & cells and at["x"] + at["w"] <= 24, panel["title"]
        cells |= mine
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert {each["name"] for each in board["templating"]["list"]} == {"datasource", "instance"}


# A real one


class Server:
    """A Prometheus that has scraped the daemon."""

    def __init__(self, port: int) -> None:
        self._at = f"http://127.0.0.1:{port}"

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self._at}{path}?{urllib.parse.urlencode(query)}", timeout=20) as answer:
            return json.load(answer)["data"]

    def value(self, query: str) -> list[dict[str, Any]]:
        """What a query finds now."""
        found: list[dict[str, Any]] = self.get("/api/v1/query", query=query)["result"]
        return found


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("scraped")
    services = sleeper("big", 1, 8000, probe={"url": "http://127.0.0.1:9/"}) + flagged("small", folder, 500)
    with running(folder, services) as up:
        assert up.ask("POST", "/admit", {"service": "small"}).status == 200
        yield up


@pytest.fixture(scope="module")
def server(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((CONFIG / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{daemon.port}"], "labels": {"instance": "box"}}]
    config["rule_files"] = [str(RULES)]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    words = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    words += [f"--web.listen-address=127.0.0.1:{port}", "--web.console.templates=", "--web.console.libraries="]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([tool("prometheus"), *words], stdout=log, stderr=log, cwd=folder)
    made = Server(port)
    try:
        end = time.monotonic() + PATIENCE_S
        while not _has_scraped(made):
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()[-3000:]
            time.sleep(0.1)
        yield made
    finally:
        process.terminate()
        process.wait(30)


def _has_scraped(server: Server) -> bool:
    """Often enough that rates have two points to go by."""
    try:
        found = server.value('count_over_time(up{job="admit"}[1m]) >= 3')
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return bool(found)


def test_it_scrapes_the_daemon(server: Server, daemon: Daemon) -> None:
    (target,) = server.get("/api/v1/targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    (free,) = server.value("admit_pool_free_bytes")
    assert int(free["value"][1]) == daemon.capacity()["free_mb"] << 20
    states = server.value('admit_service_state{service="small"} == 1')
    assert [each["metric"]["state"] for each in states] == ["reserved"]
    (admitted,) = server.value('admit_verdicts_total{verdict="admitted"}')
    assert admitted["value"][1] == "1"


def test_its_types_are_those_of_the_metrics(server: Server) -> None:
    told = server.get("/api/v1/metadata")
    for name, kinds in told.items():
        if name.startswith("admit_"):
            (kind,) = {each["type"] for each in kinds}
            assert (kind == "counter") == name.endswith("_total"), name
            assert (kind == "histogram") == name.endswith("_duration_seconds"), name
            assert all(each["help"] for each in kinds)


def test_it_goes_by_the_alerts_and_none_of_them_fires(server: Server) -> None:
    (group,) = server.get("/api/v1/rules")["groups"]
    assert {rule["name"] for rule in group["rules"]} == {alert["alert"] for alert in alerts()}
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
    assert not [each for each in server.get("/api/v1/alerts")["alerts"] if each["state"] == "firing"]


def test_every_query_of_the_dashboard_is_answered(server: Server) -> None:
    """Nothing need have happened for rates above nothing, and what a quiet daemon does not have yet."""
    empty = {title for title, query in board_queries() if not server.value(query) and "> 0" not in query}
    assert empty <= {"Held, as a share of what is declared"}, "nothing is loaded"


def test_every_metric_that_the_files_name_is_there(server: Server) -> None:
    names = set(server.get("/api/v1/label/__name__/values"))
    queries = [query for _, query in board_queries()] + [alert["expr"] for alert in alerts()]
    named = {word for query in queries for word in _metrics_in(query)}
    assert named - names <= {"admit_service_measured_bytes"}, "nothing is loaded"


def _metrics_in(query: str) -> set[str]:
    return set(re.findall(r"\badmit_\w+", query))
