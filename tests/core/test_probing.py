"""What a probe's silence means, and what is done about it: rows of looks and answers, by a clock of paper."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from admitd.core import acts, probing
from admitd.core.acts import Act, Recover, Tell
from admitd.core.probing import Heard, Memory, Watched
from admitd.core.terms import Probe, Process, ProcessId, Sentinel
from tests.core.worlds import service

PROBE = Probe("http://127.0.0.1:1/", "GET", None, 200, 30.0, 120.0)
X = service("x", probe=PROBE, load_cmd="x serve")
SETTINGS = Sentinel(probe_interval_s=60.0, probe_failures=3, recoveries_per_hour=3)


def there(*, pid: int = 5, age_s: float | None = 1_000.0, **fields: object) -> Watched:
    process = Process(ProcessId(pid, pid), 501, age_s=age_s)
    return replace(Watched(X, (process,), loaded=True), **fields)  # type: ignore[arg-type]


GONE = Watched(X, (), loaded=False)
NO = Heard("x", False, "no answer in 30 s", 30.0, 100, 100)
YES = Heard("x", True, "200", 0.1, 100, 101)
WORKS = Heard("x", False, "no answer in 30 s", 30.0, 100, 3_000)
REFUSED = Heard("x", False, "connection refused", 0.001, 100, 100)


@dataclass
class Story:
    """The memory, and what was asked of it so far."""

    settings: Sentinel = SETTINGS
    memory: Memory = field(default_factory=Memory)
    asked: list[str] = field(default_factory=list)
    events: list[Tell] = field(default_factory=list)

    def look(self, now: float, seen: Watched, *heard: Heard) -> Story:
        self.memory, done = probing.step(self.memory, now, [seen], heard, self.settings)
        self.asked += [f"{now:g} {word(act)}" for act in done]
        self.events += [act for act in done if isinstance(act, Tell)]
        return self

    def ends(self, now: float, *, back: bool) -> Story:
        self.memory = probing.recovered(self.memory, now, "x", back=back, settings=self.settings)
        return self

    def silent(self, start: float, seen: Watched, times: int = 3) -> Story:
        """`times` probes, one a minute, none of them answered."""
        for turn in range(times):
            self.look(start + 60 * turn, seen).look(start + 60 * turn + 30, seen, NO)
        return self


def word(act: Act) -> str:
    match act:
        case acts.Probe():
            return "probe"
        case Recover():
            return f"recover {act.attempt}"
        case Tell():
            return act.event.kind
    return "?"


def without_probes(story: Story) -> list[str]:
    return [each for each in story.asked if "probe_" not in each and not each.endswith("probe")]


# When it is asked


def test_it_is_asked_at_once_and_then_once_an_interval() -> None:
    story = Story().look(0, there()).look(1, there(), YES).look(59, there()).look(60, there())
    assert story.asked == ["0 probe", "60 probe"]


def test_it_is_not_asked_again_while_it_has_not_answered() -> None:
    assert Story().look(0, there()).look(600, there()).asked == ["0 probe"]


NOT_ASKED = [
    ("it is not loaded", GONE),
    ("it has no probe", replace(there(), service=replace(X, probe=None))),
    ("somebody is loading or unloading it", there(handled=True)),
    ("it is stopped, and will be woken", there(woken=True)),
]


@pytest.mark.parametrize("seen", [pytest.param(seen, id=why) for why, seen in NOT_ASKED])
def test_it_is_not_asked(seen: Watched) -> None:
    assert Story().look(0, seen).asked == []


# What silence means

SILENCE = [
    ("no answer", there(), NO, ["probe_failed"]),
    ("an answer", there(), YES, []),
    ("a wrong answer", there(), replace(REFUSED, detail="500"), ["probe_failed"]),
    ("it works meanwhile", there(), WORKS, ["busy"]),
    ("it only idles meanwhile: 1 % of a core", there(), replace(NO, progress_after=130), ["probe_failed"]),
    ("it waits for its GPU: 1.8 % of a core", there(), replace(NO, progress_after=154), ["busy"]),
    ("whether it works is not known", there(), replace(NO, progress_before=None), ["probe_failed"]),
    ("its counter began anew", there(), replace(NO, progress_after=0), ["probe_failed"]),
    ("it has just started", there(age_s=119), NO, []),
    ("it started a while ago", there(age_s=121), NO, ["probe_failed"]),
    ("nobody knows when it started", there(age_s=None), NO, ["probe_failed"]),
    ("somebody began to unload it", there(handled=True), NO, []),
    ("it is gone meanwhile", GONE, NO, []),
    ("it is another process meanwhile", there(pid=6), NO, []),
    ("it was stopped meanwhile, and will be woken", there(woken=True), NO, []),
]


@pytest.mark.parametrize(
    ("seen", "heard", "told"), [pytest.param(seen, heard, told, id=why) for why, seen, heard, told in SILENCE]
)
def test_what_silence_means(seen: Watched, heard: Heard, told: list[str]) -> None:
    story = Story().look(0, there())
    before = story.memory
    story.look(30, seen, heard)
    assert [each.event.kind for each in story.events] == told
    word = {"probe_failed": "failed", "busy": "busy"}.get("".join(told), "answered" if heard.answered else "excused")
    assert probing.meant(heard, before, story.memory) == word


def test_a_quick_refusal_is_judged_by_what_it_did_since_the_last_probe() -> None:
    """A server that answers 503 while it generates for others is busy, though this probe took a millisecond."""
    story = Story().look(0, there()).look(1, there(), YES).look(61, there())
    story.look(61, there(), replace(REFUSED, progress_before=5_000, progress_after=5_000))
    assert [each.event.kind for each in story.events] == ["busy"]


def test_what_the_server_said_is_not_told() -> None:
    said = Heard("x", False, "503 from http://h/v1, expected 200:\nhunter2 is no valid key", 30.0, 100, 100)
    (told,) = Story().look(0, there()).look(30, there(), said).events
    assert told.event.text == "x did not answer its probe (1 of 3): 503 from http://h/v1, expected 200"


def test_busy_is_told_once_and_ends_the_row() -> None:
    story = Story().silent(0, there(), times=2)
    for minute in (2, 3, 4):
        story.look(60 * minute, there()).look(60 * minute + 30, there(), WORKS)
    story.silent(300, there(), times=2)
    assert without_probes(story) == ["150 busy"]


def test_an_answer_ends_the_row() -> None:
    story = Story().silent(0, there(), times=2).look(120, there()).look(121, there(), YES).silent(180, there(), times=2)
    assert without_probes(story) == []
    assert "121 probe_answered" in story.asked


# What becomes of a hung one


def test_after_the_third_in_a_row_it_is_recovered() -> None:
    story = Story().silent(0, there())
    assert without_probes(story) == ["150 recover 1"]
    assert story.memory.recovering == "x"


def test_how_many_is_a_setting() -> None:
    story = Story(replace(SETTINGS, probe_failures=1)).silent(0, there(), times=1)
    assert without_probes(story) == ["30 recover 1"]


LEFT_ALONE = [
    ("its recover is false", there(service=replace(X, recover=False)), "its recover is false"),
    ("it has no load_cmd", there(service=replace(X, load_cmd=None)), "it has no load_cmd"),
    ("the machine went down with it", there(held_back="the machine went down after it was loaded"), "went down"),
]


@pytest.mark.parametrize(("seen", "why"), [pytest.param(seen, why, id=name) for name, seen, why in LEFT_ALONE])
def test_it_is_left_alone_and_that_is_told_once(seen: Watched, why: str) -> None:
    story = Story().silent(0, seen, times=6)
    assert without_probes(story) == ["150 gave_up"]
    assert why in story.events[-4].event.text


CHECKED = Watched(X, (), loaded=True)
"""Told by its check alone, as models of LM Studio and Ollama are: whether it works for somebody, nobody sees."""


@pytest.mark.parametrize(
    ("heard", "why"),
    [
        (replace(NO, refused=True), "nobody listens where its probe asks"),
        (replace(NO, detail="401"), "it never answered; see whether its probe asks the right place"),
    ],
)
def test_what_only_a_check_tells_of_is_not_recovered_for_a_probe_that_never_worked(heard: Heard, why: str) -> None:
    """LM Studio's server is off until it is switched on: the model is in use, and would be unloaded for that."""
    story = Story()
    for turn in range(6):
        story.look(60 * turn, CHECKED).look(60 * turn + 30, CHECKED, heard)
    assert without_probes(story) == ["150 gave_up"]
    told = next(each.event for each in story.events if each.event.kind == "gave_up")
    assert why in told.text
    assert told.next == "admit explain x"


@pytest.mark.parametrize(("heard", "done"), [(NO, "recover 1"), (replace(NO, refused=True), "gave_up")])
def test_what_only_a_check_tells_of_is_recovered_once_it_has_answered_and_its_server_is_there(
    heard: Heard, done: str
) -> None:
    story = Story().look(0, CHECKED).look(1, CHECKED, YES)
    for turn in (1, 2, 3):
        story.look(60 * turn, CHECKED).look(60 * turn + 30, CHECKED, heard)
    assert without_probes(story) == [f"210 {done}"]


def test_one_with_a_process_is_recovered_though_nobody_listens() -> None:
    story = Story()
    for turn in range(3):
        story.look(60 * turn, there()).look(60 * turn + 30, there(), replace(NO, refused=True))
    assert without_probes(story) == ["150 recover 1"]


def test_nothing_more_happens_while_it_is_recovered() -> None:
    story = Story().silent(0, there()).look(300, GONE).look(400, there(pid=6), NO)
    assert without_probes(story) == ["150 recover 1"]


def test_one_recovery_at_a_time() -> None:
    other = replace(there(pid=9), service=replace(X, name="y"))
    memory = Memory()
    recovered = []
    for now in (0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0):
        heard = [NO, replace(NO, service="y")] if now % 60 else []
        memory, done = probing.step(memory, now, [there(), other], heard, SETTINGS)
        recovered += [act.service for act in done if isinstance(act, Recover)]
    assert recovered == ["x"]
    memory = probing.recovered(memory, 200.0, "x", back=True, settings=SETTINGS)
    memory, done = probing.step(memory, 201.0, [there(pid=6), other], [], SETTINGS)
    assert [act.service for act in done if isinstance(act, Recover)] == ["y"]


def test_it_came_back_and_stays() -> None:
    story = Story().silent(0, there()).ends(200, back=True)
    story.look(210, there(pid=6)).look(211, there(pid=6), YES).look(271, there(pid=6)).look(272, there(pid=6), YES)
    assert without_probes(story) == ["150 recover 1"]


def test_the_cooldown_doubles() -> None:
    story = Story(replace(SETTINGS, probe_failures=1))
    story.silent(0, there(), times=1).ends(40, back=True)  # cool until 100
    story.look(50, there(pid=6)).look(80, there(pid=6), NO).look(99, there(pid=6)).look(100, there(pid=6))
    story.ends(110, back=True)  # cool until 230
    story.look(120, there(pid=7)).look(150, there(pid=7), NO).look(229, there(pid=7)).look(230, there(pid=7))
    assert without_probes(story) == ["30 recover 1", "100 recover 2", "230 recover 3"]


def test_at_most_so_many_an_hour_and_then_it_gives_up_with_the_count() -> None:
    story = Story()
    now = 0.0
    for pid in (5, 6, 7):
        story.silent(now, there(pid=pid)).look(now + 400, there(pid=pid))
        story.ends(now + 410, back=True)
        now += 600
    story.silent(now, there(pid=8), times=10)
    told = [each for each in story.events if each.event.kind == "gave_up"]
    assert len(told) == 1
    assert told[0].event.numbers["recoveries"] == 3
    assert "recovered 3 times" in told[0].event.text
    assert sum("recover " in each for each in story.asked) == 3


def test_given_up_it_is_watched_again_once_it_answers() -> None:
    story = Story(replace(SETTINGS, probe_failures=1, recoveries_per_hour=1))
    story.silent(0, there(), times=1).ends(40, back=True)
    story.look(50, there(pid=6)).look(80, there(pid=6), NO).look(110, there(pid=6)).look(111, there(pid=6), YES)
    story.look(5_000, there(pid=6)).look(5_030, there(pid=6), NO)
    assert without_probes(story) == ["30 recover 1", "80 gave_up", "5030 recover 1"]


def test_what_did_not_come_back_is_tried_again_after_the_cooldown_and_then_given_up() -> None:
    story = Story().silent(0, there()).ends(200, back=False)  # cool until 260
    story.look(210, GONE).look(259, GONE).look(260, GONE).ends(300, back=False)  # cool until 420
    story.look(419, GONE).look(420, GONE).ends(430, back=False).look(440, GONE).look(10_000, GONE)
    assert without_probes(story) == ["150 recover 1", "260 recover 2", "420 recover 3", "440 gave_up"]


def test_someone_else_brought_it_back_meanwhile() -> None:
    story = Story().silent(0, there()).ends(200, back=False).look(210, there(pid=6)).look(211, there(pid=6), YES)
    story.look(260, GONE).look(900, GONE)
    assert without_probes(story) == ["150 recover 1"]


def test_what_was_unloaded_on_purpose_stays_unloaded() -> None:
    story = Story().silent(0, there()).ends(200, back=False)
    story.memory = probing.dropped(story.memory, "x")
    story.look(260, GONE).look(900, GONE)
    assert without_probes(story) == ["150 recover 1"]


def test_one_that_crashed_by_itself_is_not_loaded() -> None:
    """Restarting what ends is its supervisor's; only what lives and does not answer is recovered."""
    story = Story().silent(0, there(), times=2).look(150, GONE).look(900, GONE)
    assert without_probes(story) == []


def test_a_worker_that_comes_and_goes_is_the_same_service() -> None:
    main, worker = Process(ProcessId(5, 5), 501, age_s=999.0), Process(ProcessId(6, 6), 501, age_s=999.0)
    story = Story()
    for turn, processes in enumerate([(main,), (main, worker), (main,)]):
        seen = replace(there(), processes=processes)
        story.look(60 * turn, seen).look(60 * turn + 30, seen, NO)
    assert without_probes(story) == ["150 recover 1"]


def test_half_loaded_for_too_long_counts_as_hung_even_without_a_probe() -> None:
    seen = there(service=replace(X, probe=None), half="its check says that it is not loaded")
    story = Story().look(0, seen)
    assert story.asked == ["0 recover 1"]


def test_half_loaded_and_busy_it_is_left_alone() -> None:
    seen = there(half="it is half loaded for longer than its load_timeout_s")
    story = Story().look(0, there()).look(30, seen, WORKS).look(60, seen).look(90, seen, WORKS)
    assert without_probes(story) == ["30 busy"]
    story.look(120, seen).look(150, seen, NO)
    assert without_probes(story) == ["30 busy", "150 recover 1"]


def test_one_that_a_debugger_holds_is_not_asked_and_that_is_told_once() -> None:
    running = there()
    held = replace(there(handled=True), processes=(replace(running.processes[0], traced=True),))
    story = Story().look(0, held).look(60, held).look(120, running).look(150, held, NO).look(600, held)
    assert story.asked == ["0 stopped", "120 probe"]
    assert "x (process 5) is held by a debugger" in story.events[0].event.text


def test_a_clock_that_jumps_forward_brings_one_probe_forward_and_no_more() -> None:
    """A machine that slept: the monotonic clock may stand still or jump; never does it run back."""
    story = Story().look(0, there()).look(1, there(), YES).look(1e6, there()).look(1e6 + 1, there(), YES)
    assert story.asked == ["0 probe", "1e+06 probe"]


@pytest.mark.parametrize("answered", [True, False])
def test_what_need_not_be_recovered_in_the_end_was_no_recovery(answered: bool) -> None:
    story = Story().silent(0, there())
    story.memory = probing.spared(story.memory, "x", answered=answered)
    story.look(151, there())
    assert story.memory.recovering is None
    assert without_probes(story) == ["150 recover 1"]
    story.silent(180, there())
    assert without_probes(story) == ["150 recover 1", "330 recover 1"], "no cooldown, and none of its three an hour"
