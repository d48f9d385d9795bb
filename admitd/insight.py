"""insight: what is known because somebody keeps watching, for those who look at it: of each service, and how the memory
of the machine went in the last hour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from admitd.core import condition
from admitd.core.condition import Condition, Peak, Sample, Working
from admitd.core.probing import Memory
from admitd.gate import Scene


class Insight:
    """Filled by one thread, read by others: replaced as a whole, so that nobody ever sees half of a round."""

    def __init__(self) -> None:
        self._peaks: Mapping[str, Peak] = {}
        self._conditions: Mapping[str, Condition] = {}
        self._samples: deque[Sample] = deque(maxlen=condition.SAMPLES_MAX)
        self._sampled_s: float | None = None

    def conditions(self) -> Mapping[str, Condition]:
        """What is known of each service that is charged or was probed, as of the last round."""
        return self._conditions

    def history(self) -> list[Sample]:
        """How the machine's memory went, oldest first."""
        return list(self._samples)

    def take(
        self, now: float, scene: Scene, known: Mapping[str, Working], probes: Memory, half: Mapping[str, str]
    ) -> None:
        """Take one round in. What this look did not see loaded, and was not probed, is left out: it may have come
        since. `half`: who is half loaded, and why."""
        accounts = scene.ledger.accounts
        self._peaks = condition.peaks(self._peaks, accounts.values())
        found = {}
        for name, service in scene.capacity.services.items():
            course = probes.courses.get(name)
            if course is not None or (name in accounts and accounts[name].state.is_loaded):
                probe = condition.answering(service, course, recovering=name == probes.recovering)
                peak, why = self._peaks.get(name), half.get(name, "")
                found[name] = condition.condition(now, known.get(name), probe, course, peak, why)
        self._conditions = found
        if self._sampled_s is None or now - self._sampled_s >= condition.SAMPLE_EVERY_S:
            self._sampled_s = now
            self._samples.append(condition.sample(scene.at, scene.ledger, scene.reading))
