"""How `assay admin` tells what a server answered."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from engine.console import out, say

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from assay.admin.v1 import traffic_pb2


def tell_change(answer: Any, as_json: bool) -> None:
    """What came of a change."""
    if as_json:
        print_json(answer)
        return
    if not answer.changed:
        say("It is so already; nothing was changed.")
    else:
        say(f"Done, in {answer.workers} worker process{'' if answer.workers == 1 else 'es'}.")
    tell_traffic(answer.traffic)


def tell_traffic(served: traffic_pb2.Traffic) -> None:
    """What is served."""
    say(f"generation {served.generation}: {word(served, 'kind')} by {served.who}, {time(served.changed_at)}")
    say(f"  why: {served.why}")
    say(f"  default {served.default_bundle[7:19]}, previous {served.previous_bundle[7:19] or '-'}")
    for flow in served.flows:
        say(f"  {flow.flow}")
        for arm in flow.experiment.arms:
            share = arm.share_basis_points / 100
            say(f"    {flow.experiment.name}: {arm.name} {share:g} % {arm.bundle[7:19]}")
        for shadow in flow.shadows:
            say(f"    shadow {shadow.name} {shadow.share_basis_points / 100:g} % {shadow.bundle[7:19]}")
        for bound in flow.cut_out.bounds:
            least, most = bound.min if bound.HasField("min") else 0.0, bound.max if bound.HasField("max") else 1.0
            then = "falls back" if flow.cut_out.fall_back else "alerts"
            window_s = flow.cut_out.window.seconds
            say(f"    cut-out: {word(bound, 'verdict')} {least:.1%} to {most:.1%} in {window_s} s, {then}")


def word(message: Message, field: str) -> str:
    """The name of an enum's value without the enum's own name."""
    descriptor: Any = message.DESCRIPTOR.fields_by_name[field].enum_type
    number = getattr(message, field)
    value = descriptor.values_by_number.get(number)
    zero: str = descriptor.values_by_number[0].name
    return str(number) if value is None else str(value.name).removeprefix(zero.removesuffix("UNSPECIFIED"))


def time(stamp: Any) -> str:
    """A moment, in UTC."""
    return datetime.fromtimestamp(stamp.seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def print_json(message: Message) -> None:
    """A whole answer."""
    from google.protobuf.json_format import MessageToDict

    say(json.dumps(MessageToDict(message, preserving_proto_field_name=True), indent=2, ensure_ascii=False))


def table(heads: list[str], rows: list[list[str]]) -> None:
    """Rows under their heads."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*(escape(cell) for cell in row))
    out.print(shown)
