"""The statements of the shipper and of the reader of what it shipped.

A row about a decision carries the moment of the decision as its timestamp, whenever it is written: a write that is
repeated later changes nothing, of two decisions of one request the later one stays, and what was erased since stays
erased. A subject's erasure is noted beside its keys besides, for the mark of a deletion goes in time: keys made before
it are no longer shipped, and no longer used where they come back.
"""

from __future__ import annotations

from engine.features.stores.cassandra_driver import Call, Statement

_USING = "USING TTL ? AND TIMESTAMP ?"
_REFERENCE = "flow, bundle, verdict"
_FRAME = "source, worker, segment, frame_offset"
_CHAIN = "sequence, link, flags"

ERASES = {
    "erase_keys": Statement("DELETE FROM subject_keys USING TIMESTAMP ? WHERE subject = ?"),
    "note_erasure": Statement("INSERT INTO subject_keys (subject, erased_us) VALUES (?, ?) USING TIMESTAMP ?"),
    "erase_subject": Statement("DELETE FROM decisions_by_subject USING TIMESTAMP ? WHERE subject = ?"),
}


def erase_calls(subject: bytes, moment_us: int) -> list[Call]:
    """Whatever is kept by a subject's keyed hash, up to a moment; the note of it is a little younger and stays."""
    return [
        Call("erase_keys", (moment_us, subject)),
        Call("erase_subject", (moment_us, subject)),
        Call("note_erasure", (subject, moment_us, moment_us + 1)),
    ]


WRITES = {
    "by_id": Statement(
        f"INSERT INTO decision_by_id (decision_id, {_FRAME}, {_CHAIN}, decided_at, {_REFERENCE}, subject,"
        f" request_hash, payload_digest, parts, payload) VALUES ({', '.join('?' * 17)}) {_USING}"
    ),
    "by_subject": Statement(
        f"INSERT INTO decisions_by_subject (subject, decided_at, decision_id, {_REFERENCE})"
        f" VALUES (?, ?, ?, ?, ?, ?) {_USING}"
    ),
    "by_day": Statement(
        f"INSERT INTO decisions_by_day (day, bucket, decided_at, decision_id, {_REFERENCE})"
        f" VALUES (?, ?, ?, ?, ?, ?, ?) {_USING}"
    ),
    "by_request": Statement(
        "INSERT INTO decision_by_request (request_hash, decision_id, payload_digest, decided_at)"
        f" VALUES (?, ?, ?, ?) {_USING}"
    ),
    "of_decision": Statement(
        f"INSERT INTO frames_of_decision (decision_id, kind, {_FRAME}, {_CHAIN}, subject, parts, payload)"
        f" VALUES ({', '.join('?' * 12)}) {_USING}"
    ),
    "frame": Statement(
        f"INSERT INTO journal_frames ({_FRAME}, {_CHAIN}, kind, length, ref, parts, payload)"
        f" VALUES ({', '.join('?' * 12)}) {_USING}"
    ),
    "segment_begun": Statement("INSERT INTO journal_segments (source, worker, segment) VALUES (?, ?, ?)"),
    "segment_ended": Statement(
        "INSERT INTO journal_segments (source, worker, segment, complete, length) VALUES (?, ?, ?, true, ?)"
    ),
    "declared": Statement("INSERT INTO declared_by_digest (kind, digest, parts, payload) VALUES (?, ?, ?, ?)"),
    "part": Statement(f"INSERT INTO payload_parts (holder, part, content) VALUES (?, ?, ?) {_USING}"),
    "key": Statement(f"INSERT INTO subject_keys (subject, key_id, created_us, wrapped) VALUES (?, ?, ?, ?) {_USING}"),
    **ERASES,
    "erased_read": Statement("SELECT DISTINCT erased_us FROM subject_keys WHERE subject = ?"),
}

READS = {
    **ERASES,
    "get": Statement(f"SELECT {_FRAME}, {_CHAIN}, subject, parts, payload FROM decision_by_id WHERE decision_id = ?"),
    "request": Statement("SELECT decision_id, payload_digest FROM decision_by_request WHERE request_hash = ?"),
    "subject": Statement(
        f"SELECT decision_id, decided_at, {_REFERENCE} FROM decisions_by_subject"
        " WHERE subject = ? AND decided_at >= ? AND decided_at < ? LIMIT ?",
        page_rows=500,
    ),
    "day": Statement(
        f"SELECT decision_id, decided_at, {_REFERENCE} FROM decisions_by_day WHERE day = ? AND bucket = ?",
        page_rows=500,
    ),
    "of_decision_read": Statement(
        f"SELECT {_FRAME}, {_CHAIN}, subject, parts, payload FROM frames_of_decision"
        " WHERE decision_id = ? AND kind = ?",
        page_rows=100,
    ),
    "of_decision_one": Statement(
        "SELECT parts, payload FROM frames_of_decision WHERE decision_id = ? AND kind = ?"
        " AND source = ? AND worker = ? AND segment = ? AND frame_offset = ?"
    ),
    "declared_read": Statement("SELECT parts, payload FROM declared_by_digest WHERE kind = ? AND digest = ?"),
    "part_read": Statement("SELECT part, content FROM payload_parts WHERE holder = ?", page_rows=8),
    "sources": Statement("SELECT DISTINCT source FROM journal_segments"),
    "segments": Statement("SELECT worker, segment, complete, length FROM journal_segments WHERE source = ?"),
    "frames": Statement(
        f"SELECT frame_offset, {_CHAIN}, kind, length, ref, parts, payload FROM journal_frames"
        " WHERE source = ? AND worker = ? AND segment = ?",
        page_rows=200,
    ),
    "key_read": Statement("SELECT created_us, wrapped, erased_us FROM subject_keys WHERE subject = ? AND key_id = ?"),
}
