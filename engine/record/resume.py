"""Where a worker goes on: its chain and the number of its next segment."""

from __future__ import annotations

from pathlib import Path

from engine.record.heads import HeadFile, Signed
from engine.record.layouts import Chain, genesis
from engine.record.segments import Damage, Frame, TornTail, own_segments, read_head, scan


def resume(directory: Path, worker: str, file: HeadFile) -> Chain:
    """Where a worker's chain stood when it ended: after the last frame that is there, or further, where it was noted
    that there was more. What is missing then stays missing in the chain, for all to see. Raises RecordError."""
    heads = [head for head in file.read() if file.signed(head) is not Signed.WRONG]
    noted = max((head.chain for head in heads), default=genesis(worker))
    for segment in reversed(own_segments(directory, worker)):
        begin = read_head(directory, segment)
        if isinstance(begin, (Damage, TornTail)):
            continue
        if begin.chain is None:
            break
        # What was noted last of the segment saves reading it from its beginning.
        here = [(head.offset, head.chain) for head in heads if head.segment == segment]
        offset, chain = max(here, default=(0, begin.chain))
        for item in scan(directory, segment, offset):
            if isinstance(item, (Frame, Damage)) and item.link:
                chain = Chain(item.sequence, item.link)
        return max(noted, chain, key=lambda c: c.sequence)
    return noted


def last_number(directory: Path, worker: str, file: HeadFile) -> int:
    """The highest number that a segment of a worker ever had, as far as is known: no name is given twice, also when all
    segments were let go. 0 for none. Raises RecordError."""
    known = [*own_segments(directory, worker), *(head.segment for head in file.read() if head.segment)]
    return max((int(name.rpartition("-")[2]) for name in known), default=0)
