"""What two applications under one request id differ in: the paths of the fields, never their values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError, Message

from assay.decision.v1.decision_pb2 import Application

# What the answer to a repeat names at most; the last of more says that there are more.
MAX_PATHS = 16
MORE = "..."
_MAX_DEPTH = 8
# A caller may put anything into a key; what is no name of a field is not repeated.
_is_name = re.compile(r"[a-z][a-z0-9_]{0,63}").fullmatch


def differences(first: bytes, second: bytes) -> list[str]:
    """The fields in which two serialised Applications differ, as paths in the order of the message, at most
    `MAX_PATHS`. Empty when they say the same, or when one of them is no Application.

    `application.amount.units`, `application.fields["income"]`, `application.entities[1]`.
    """
    try:
        one, other = Application.FromString(first), Application.FromString(second)
    except DecodeError:
        return []
    found = list(islice(_message("application", one, other, 0), MAX_PATHS + 1))
    return found if len(found) <= MAX_PATHS else [*found[: MAX_PATHS - 1], MORE]


def _message(path: str, one: Message, other: Message, depth: int) -> Iterator[str]:
    if one == other:
        return
    if depth >= _MAX_DEPTH:
        yield path
        return
    for field in one.DESCRIPTOR.fields:
        here = f"{path}.{field.name}"
        left, right = getattr(one, field.name), getattr(other, field.name)
        if _is_map(field):
            yield from _map(here, left, right)
        elif field.is_repeated:
            yield from _list(here, left, right)
        elif field.has_presence and one.HasField(field.name) != other.HasField(field.name):
            yield here
        elif field.message_type is not None:
            yield from _message(here, left, right, depth + 1)
        elif left != right and not (left != left and right != right):
            yield here


def _map(path: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted({*left, *right}):
        if (key in left) != (key in right) or left[key] != right[key]:
            yield f'{path}["{key}"]' if _is_name(key) else f'{path}["?"]'


def _list(path: str, left: Any, right: Any) -> Iterator[str]:
    for index in range(max(len(left), len(right))):
        if index >= len(left) or index >= len(right) or left[index] != right[index]:
            yield f"{path}[{index}]"


def _is_map(field: Any) -> bool:
    kind = field.message_type
    return bool(kind is not None and kind.GetOptions().map_entry)
