"""What `admit estimate` says of a model, beside what real servers took to serve it: the deviation is printed, and
bounded: too little would let a load in that does not fit, far too much would keep one out that does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from admitd.core import sizing
from admitd.core.units import MIB
from bench import estimating
from bench.estimating import Case
from bench.measuring import Skipped
from tests.live.servers import Servers

MOST = 1.45
"""Of what was measured."""


@pytest.mark.parametrize("case", estimating.CASES, ids=[f"{each.name} {each.words}" for each in estimating.CASES])
def test_what_a_server_takes(
    case: Case,
    servers: Servers,
    mlx_model: Callable[..., Path],
    gguf_model: Callable[..., Path],
    free_port: Callable[[], int],
) -> None:
    port, make = free_port(), mlx_model if case.engine == "mlx_lm.server" else gguf_model
    model = make(*case.model)
    server = servers.start(*estimating.command(case, model, port))
    servers.answer(port)
    try:
        found = estimating.compare(case, model, server.pid, port)
    except Skipped as why:
        pytest.skip(str(why))
    said = found.estimate
    parts = " + ".join(f"{each / MIB:.0f}" for each in (said.weights, said.cache, said.scratch, said.program))
    print(f"{case.name}: {said.tokens} tokens x {said.parallel}: measured {found.took / MIB:.0f} MB, {parts} estimated")
    assert found.took <= sizing.budget(said.together), "the budget, which has a margin, holds it"
    assert found.ratio < MOST
