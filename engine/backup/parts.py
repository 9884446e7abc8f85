"""What a backup is made of, and where each part belongs on a host.

manifest.json       what is in the backup, with digests
settings.toml       the settings in force, without passwords: for a person to read
decisions/          the journal: segments, heads, checkpoints; index/ and outcomes.sqlite
keys/               the keys of subjects: apart, because they should be kept for a shorter time
features/           the embedded feature store
traffic/, bundles/  what is served to whom, and every bundle that was loaded
bundle/             the bundle that the settings name
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from engine.record.segments import SUFFIX as SEGMENT_SUFFIX

DECISIONS, KEYS, FEATURES, TRAFFIC, BUNDLES, BUNDLE = "decisions", "keys", "features", "traffic", "bundles", "bundle"
# What can be left out by name. The journal cannot: a backup is one of decisions.
OPTIONAL = (KEYS, FEATURES, BUNDLES)
SETTINGS_FILE, MANIFEST_FILE = "settings.toml", "manifest.json"
INDEX_DIRECTORY, OUTCOMES_FILE = "index", "outcomes.sqlite"
# Erasures that were made again after a restore: the journal itself has no frames of them.
REAPPLIED_FILE = "erasures.jsonl"
# Small files of workers beside the segments. Not: locks, tables of claims, the shipper's state (see `snapshot`).
_BESIDE = re.compile(
    r"velocity\.erased|velocity\.[a-z][a-z0-9_]*\.(json|erased)|claims\.[a-z][a-z0-9_]*\.json|superseded\.jsonl|erasures\.jsonl"
)
IS_SEGMENT = re.compile(rf"[a-z][a-z0-9_]*-[0-9]{{8}}{re.escape(SEGMENT_SUFFIX)}").fullmatch
is_beside = _BESIDE.fullmatch


@dataclass(frozen=True, slots=True)
class Places:
    """Where a host keeps things. features: None where the feature store is not the embedded one, and has backups of
    its own. bundle: the directory of the bundle that the settings name."""

    journal: Path
    master_key: Path
    features: Path | None
    traffic: Path
    bundles: Path
    bundle: Path

    def of(self, part: str) -> Path | None:
        """Where a part belongs; None for one that has no place here."""
        return {
            DECISIONS: self.journal,
            KEYS: self.journal / KEYS,
            FEATURES: self.features,
            TRAFFIC: self.traffic,
            BUNDLES: self.bundles,
        }.get(part)
