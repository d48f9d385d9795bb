"""What the sentinel of a daemon knows of a real process, as GET /capacity and GET /history show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from admitd import schemas
from tests.live.sentinels import stand_in, start_stand_in
from tests.live.servers import Servers, wait_until
from tests.live.test_sentinel_daemon import Daemon
from tests.test_api import assert_shaped


def test_what_it_knows_is_shown_beside_what_the_look_says(
    servers: Servers, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Its probe, its peak; and how the machine's memory went."""
    port = free_port()
    services = {"chat": stand_in(port, "--mb", "64"), "idle": stand_in(free_port())}
    daemon = Daemon(servers, tmp_path, free_port(), services)
    daemon.start()
    assert [each["condition"] for each in daemon.ask("/capacity")["services"]] == [None, None], "not loaded"
    start_stand_in(servers, port, "--mb", "64")

    def known() -> Any:
        chat, idle = daemon.ask("/capacity")["services"]
        assert idle["condition"] is None
        found = chat["condition"]
        return found and found["probe"] == "answers" and found["peak_mb"] and (chat, found)

    chat, found = wait_until(known)
    assert_shaped(found, schemas.Condition)
    assert found["peak_mb"] >= 64
    assert chat["age_s"] >= 0
    history = daemon.ask("/history")
    assert_shaped(history, schemas.History)
    assert history["samples"]
    for each in history["samples"]:
        assert_shaped(each, schemas.Sample)


def test_what_never_answers_its_probe_is_shown_as_half_loaded(
    servers: Servers, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    daemon = Daemon(servers, tmp_path, free_port(), {"chat": stand_in(port, load_timeout_s=3, recover=False)})
    daemon.start()
    start_stand_in(servers, port, "--mode", "hang")

    def chat() -> Any:
        return daemon.ask("/capacity")["services"][0]

    wait_until(lambda: chat()["state"] == "half_loaded", 60, lambda: str(chat()))
    assert chat()["condition"]["half_loaded"] == "it has never answered its probe"
    assert "half_loaded" in daemon.kinds()
    metrics = daemon.text("/metrics")
    assert 'admit_service_state{service="chat",state="half_loaded"} 1.0' in metrics
    assert 'admit_service_state{service="chat",state="loaded"} 0.0' in metrics
