"""stranger: another user's admit, on a folder that several users share.

`python -m tests.workers.stranger WHERE UID UMASK ACT...`; each act is `reserve SERVICE self|nobody`, `give_back ID` or
`look`; what came of them is printed as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from admitd.gate import Ask
from admitd.reservations import Reservations
from tests.gates import REAL, ROOM, gate, me, words


def main() -> None:
    # Changed here and not by whoever starts it: the new user might not be able to read this checkout.
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[2]))
    os.umask(int(sys.argv[3], 8))
    records = Reservations(Path(sys.argv[1]), REAL.identify, shared=True)
    did: list[object] = []
    for act in sys.argv[4:]:
        verb, *rest = act.split()
        if verb == "reserve":
            did += words(gate(records), Ask(rest[0], me() if rest[1] == "self" else None))
        elif verb == "give_back":
            did.append(records.give_back(rest[0]))
        else:
            did.append([[each.service, each.damaged] for each in records.standing(ROOM).reservations])
    print(json.dumps({"did": did}))


main()
