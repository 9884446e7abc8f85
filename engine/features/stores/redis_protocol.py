"""The Redis protocol (RESP2): commands to bytes, bytes to replies, refusals to errors. hiredis is imported here."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import hiredis

from engine.errors import StoreError
from engine.features.store import StoreCorrupt, StoreUnavailable

ReplyError = hiredis.ReplyError
ProtocolError = hiredis.ProtocolError

# What a reader gives while a reply is not whole.
PARTIAL: Final = object()

# One command, words as bytes, to what goes over the wire.
pack: Final[Callable[[tuple[bytes, ...]], bytes]] = hiredis.pack_command  # type: ignore[assignment]

# Whether a reply can be one to what was asked. Given with it: for how many keys.
Fits = Callable[[Any, int], bool]

_ROW_TYPES: Final = frozenset((bytes, type(None)))

# Refusals that have a name. What the server writes beyond it may quote keys, and with them ids, so these are our words.
_KNOWN: Final = {
    "BUSY": "a script is running",
    "CLUSTERDOWN": "the cluster does not serve all slots",
    "CROSSSLOT": "keys of several slots were asked for at once",
    "LOADING": "it is still loading its data",
    "MASTERDOWN": "its master is down",
    "MISCONF": "it cannot save its data and takes no writes",
    "MOVED": "it is a node of a Redis Cluster, and the settings say that it is a single server",
    "NOAUTH": "it demands a password",
    "NOPERM": "the ACL of the user forbids a command or a key that the store needs",
    "NOREPLICAS": "too few replicas to take writes",
    "OOM": "its memory is full",
    "READONLY": "it is a replica",
    "TRYAGAIN": "a slot is being moved",
    "UNBLOCKED": "it changed its role",
    "WRONGPASS": "user or password is wrong, or the user is disabled",
    "WRONGTYPE": "a key of the store holds something that is no row",
}
_CORRUPT: Final = {"WRONGTYPE", "CROSSSLOT"}
# Up to where an unnamed refusal quotes nothing.
_UNQUOTED: Final = re.compile(r"[^'\"`{(,:\r\n]{0,80}")


class ConnectionLost(StoreUnavailable):
    """The server ended the connection, or it broke. Never leaves a store: it becomes a plain StoreUnavailable."""


def new_reader() -> hiredis.Reader:
    """A parser of replies for one connection: texts as bytes, refusals as `ReplyError` objects in their place."""
    return hiredis.Reader(notEnoughData=PARTIAL)


def is_rows(reply: Any, count: int) -> bool:
    """A reply to MGET."""
    return type(reply) is list and len(reply) == count and _ROW_TYPES.issuperset(map(type, reply))


def is_outcomes(reply: Any, count: int) -> bool:
    """A reply of the script that puts values in place: 1, or what is there."""
    return (
        type(reply) is list
        and len(reply) == count
        and all(item is None or type(item) is bytes or item == 1 for item in reply)
    )


def is_number(reply: Any, count: int) -> bool:
    """How many of the keys a command was about."""
    return type(reply) is int and 0 <= reply <= count


def is_text(reply: Any, count: int) -> bool:
    """One value or none."""
    return reply is None or type(reply) is bytes


def is_texts(reply: Any, count: int) -> bool:
    """Any number of values."""
    return type(reply) is list and all(type(item) is bytes for item in reply)


def is_pairs(reply: Any, count: int) -> bool:
    """Any number of names with their values."""
    return is_texts(reply, count) and len(reply) % 2 == 0


def is_page(reply: Any, count: int) -> bool:
    """A reply to SCAN: where to go on, and keys."""
    return type(reply) is list and len(reply) == 2 and type(reply[0]) is bytes and is_texts(reply[1], count)


def is_pong(reply: Any, count: int) -> bool:
    """A reply to PING."""
    return bool(reply == b"PONG")


def is_list(reply: Any, count: int) -> bool:
    """A reply that is looked at more closely later."""
    return type(reply) is list


def code_of(error: Exception) -> str:
    """The name of a refusal: its first word."""
    return str(error).partition(" ")[0]


def refusal(error: Exception, where: object) -> StoreError:
    """The error to raise for a refusal. where: the server's address."""
    code = code_of(error)
    kind = StoreCorrupt if code in _CORRUPT else StoreUnavailable
    known = _KNOWN.get(code)
    if known is not None:
        return kind(f"redis at {where} refused ({code}): {known}")
    said = _UNQUOTED.match(str(error))
    return kind(f"redis at {where} refused: {said[0].strip() if said else code}")


def nonsense(reply: Any, where: object) -> StoreError:
    """The error to raise for a reply that does not fit. A connection that gave it may be one answer ahead or behind."""
    return StoreCorrupt(f"redis at {where} gave an answer that is none to what was asked ({type(reply).__name__})")
