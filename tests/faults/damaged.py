"""Decisions over an embedded store whose file is damaged while it is open, in a process of their own: a damaged map can
end a process (SIGBUS), and that is a finding, not the end of the tests.

    python -m tests.faults.damaged HOME SUBJECT HOW

Prints one line of JSON for each decision: its bytes, the seconds it took, the views it lacked.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from tests.faults.desk import Answer, Desk
from tests.faults.stores import embedded

_PAGE = 4096
# The first two pages say where the tree is.
_META_BYTES = 2 * _PAGE
HOW = ("pages overwritten", "pages zeroed", "values overwritten", "bytes at random", "truncated")


def damage(home: Path, how: str, values: list[bytes]) -> None:
    """Spoils the file. values: what the store's rows are."""
    path = home / "features" / "data.mdb"
    content = bytearray(path.read_bytes())
    if how == "pages overwritten":
        content[_META_BYTES:] = b"\xa5" * (len(content) - _META_BYTES)
    elif how == "pages zeroed":
        content[_META_BYTES:] = bytes(len(content) - _META_BYTES)
    elif how == "values overwritten":
        for value in values:
            at = content.find(value)
            while at >= 0:
                content[at + 40] ^= 16
                at = content.find(value, at + 1)
    elif how == "bytes at random":
        dice = random.Random(7)
        for _ in range(2000):
            at = dice.randrange(_META_BYTES, len(content) - 8)
            content[at : at + 8] = dice.randbytes(8)
    elif how == "truncated":
        # What is mapped shrinks under the reader.
        with path.open("r+b") as file:
            file.truncate(_META_BYTES)
        return
    # In place: the map must see it, and a new file would not be this one.
    with path.open("r+b") as file:
        file.write(content)


def main(home: Path, subject: str, how: str) -> None:
    """See above."""
    store = embedded(home)
    desk = Desk(store, home, subject)
    assert not desk.decide().decision.substitutions
    damage(home, how, [value for _, value in store.scan()])
    for _ in range(5):
        tell(desk.decide())
    desk.close()


def tell(answer: Answer) -> None:
    """Prints an answer."""
    line = {
        "decision": answer.decision.SerializeToString().hex(),
        "took_s": answer.took_s,
        "lost": sorted(answer.lost),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
