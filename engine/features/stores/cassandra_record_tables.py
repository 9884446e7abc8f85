"""The tables that hold what the journal held: what `engine.shipping` writes and reads.

A decision's payload lies in one place, `decision_by_id`; all other tables about decisions refer to it. Bulky payloads
lie in parts. `docs/shipping.md` says what goes where and how big it gets.
"""

from __future__ import annotations

# Written in the order of time, and gone in that order: one window's files are dropped when the last row expires.
_BY_TIME = (
    "compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS',"
    " 'compaction_window_size': '7'}"
)

RECORD_TABLES: tuple[str, ...] = (
    f"""
CREATE TABLE IF NOT EXISTS decision_by_id (
    decision_id text PRIMARY KEY,
    source text,
    worker text,
    segment bigint,
    frame_offset bigint,
    sequence bigint,
    link blob,
    flags tinyint,
    decided_at timestamp,
    flow text,
    bundle text,
    verdict tinyint,
    subject blob,
    request_hash blob,
    payload_digest blob,
    parts int,
    payload blob
) WITH {_BY_TIME}
  AND comment = 'Assay: decisions as they are in the journal; payload: engine/record/entries.py'
""",
    """
CREATE TABLE IF NOT EXISTS decisions_by_subject (
    subject blob,
    decided_at timestamp,
    decision_id text,
    flow text,
    bundle text,
    verdict tinyint,
    PRIMARY KEY ((subject), decided_at, decision_id)
) WITH CLUSTERING ORDER BY (decided_at DESC, decision_id ASC)
  AND compaction = {'class': 'LeveledCompactionStrategy'}
  AND comment = 'Assay: decisions of a subject, by a keyed hash of its id, the latest first'
""",
    f"""
CREATE TABLE IF NOT EXISTS decisions_by_day (
    day date,
    bucket smallint,
    decided_at timestamp,
    decision_id text,
    flow text,
    bundle text,
    verdict tinyint,
    PRIMARY KEY ((day, bucket), decided_at, decision_id)
) WITH {_BY_TIME}
  AND comment = 'Assay: decisions of a day (UTC), in 288 buckets of five minutes'
""",
    """
CREATE TABLE IF NOT EXISTS decision_by_request (
    request_hash blob PRIMARY KEY,
    decision_id text,
    payload_digest blob,
    decided_at timestamp
) WITH compaction = {'class': 'LeveledCompactionStrategy'}
  AND comment = 'Assay: the decision of a request, by SHA-256 of its key'
""",
    f"""
CREATE TABLE IF NOT EXISTS frames_of_decision (
    decision_id text,
    kind tinyint,
    source text,
    worker text,
    segment bigint,
    frame_offset bigint,
    sequence bigint,
    link blob,
    flags tinyint,
    subject blob,
    parts int,
    payload blob,
    PRIMARY KEY ((decision_id), kind, source, worker, segment, frame_offset)
) WITH {_BY_TIME}
  AND comment = 'Assay: what else was recorded about a decision: outcomes (4), challengers (6)'
""",
    """
CREATE TABLE IF NOT EXISTS declared_by_digest (
    kind tinyint,
    digest text,
    parts int,
    payload blob,
    PRIMARY KEY ((kind, digest))
) WITH comment = 'Assay: slot lists (2) and environments (3) that records name by digest, for ever'
""",
    f"""
CREATE TABLE IF NOT EXISTS journal_frames (
    source text,
    worker text,
    segment bigint,
    frame_offset bigint,
    sequence bigint,
    link blob,
    flags tinyint,
    kind tinyint,
    length int,
    ref text,
    parts int,
    payload blob,
    PRIMARY KEY ((source, worker, segment), frame_offset)
) WITH {_BY_TIME}
  AND comment = 'Assay: every frame of the journal in its place; payload: only of those that no other table holds'
""",
    """
CREATE TABLE IF NOT EXISTS journal_segments (
    source text,
    worker text,
    segment bigint,
    complete boolean,
    length bigint,
    PRIMARY KEY ((source), worker, segment)
) WITH comment = 'Assay: the segments of each journal directory that were shipped, wholly or in part'
""",
    f"""
CREATE TABLE IF NOT EXISTS payload_parts (
    holder text,
    part int,
    content blob,
    PRIMARY KEY ((holder), part)
) WITH {_BY_TIME}
  AND comment = 'Assay: payloads of more than one cell should hold'
""",
    """
CREATE TABLE IF NOT EXISTS subject_keys (
    subject blob,
    key_id blob,
    created_us bigint,
    wrapped blob,
    erased_us bigint STATIC,
    PRIMARY KEY ((subject), key_id)
) WITH compaction = {'class': 'LeveledCompactionStrategy'}
  AND comment = 'Assay: what the personal parts of records are sealed with; of no use without the master key'
""",
)
