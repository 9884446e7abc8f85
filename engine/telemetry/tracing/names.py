"""Every span and attribute name, in one file.

`rpc.*`, `db.*`, `server.*` and `error.*` follow the OpenTelemetry semantic conventions at `SCHEMA_URL`: there a method
is one fully qualified name (which `rpc.service` has become part of), and a status is its name and not its number. What
the conventions have no word for is `assay.*`. Units come last; what has none is a count or a name.

No value under any of these names may be personal data: ids go through `redact.IdHasher` first.
"""

from __future__ import annotations

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"
SCOPE: Final = "assay"

# Resource.
SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
HOST_NAME: Final = "host.name"
PROCESS_PID: Final = "process.pid"
PROCESS_RUNTIME_NAME: Final = "process.runtime.name"
PROCESS_RUNTIME_VERSION: Final = "process.runtime.version"
SDK_LANGUAGE: Final = "telemetry.sdk.language"
SDK_NAME: Final = "telemetry.sdk.name"
SDK_VERSION: Final = "telemetry.sdk.version"
WORKER: Final = "assay.worker"
# The declared share of plain approvals that is kept; whoever counts spans divides by it.
PLAIN_KEPT_RATIO: Final = "assay.trace.plain_kept_ratio"

# The server span, and any call of ours to something else.
RPC_SYSTEM: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS: Final = "rpc.response.status_code"
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

FLOW: Final = "assay.flow"
BUNDLE_DIGEST: Final = "assay.bundle.digest"
MODEL_VERSIONS: Final = "assay.model.versions"
DECISION_ID: Final = "assay.decision.id"
VERDICT: Final = "assay.verdict"
REASON_CODES: Final = "assay.reason.codes"
SUBSTITUTIONS: Final = "assay.substitutions"
SUBSTITUTED_FEATURES: Final = "assay.substituted.features"
DEGRADED: Final = "assay.degraded"
REPLAYED: Final = "assay.replayed"
RECORD_STATE: Final = "assay.record.state"
BATCH_SIZE: Final = "assay.batch.size"
BATCH_INDEX: Final = "assay.batch.index"
RETRIES: Final = "assay.retries"
BREAKER_STATE: Final = "assay.breaker.state"
QUEUE_WAIT: Final = "assay.queue.wait_us"
DEADLINE_LEFT: Final = "assay.deadline.left_ms"
REQUEST_ID_HASH: Final = "assay.request.id_hash"
SUBJECT_ID_HASH: Final = "assay.subject.id_hash"

# Stages.
VALIDATE: Final = "assay.validate"
VIOLATIONS: Final = "assay.validate.violations"

STORE_READ: Final = "assay.store.read"
DB_SYSTEM: Final = "db.system.name"
DB_OPERATION: Final = "db.operation.name"
DB_NAMESPACE: Final = "db.namespace"
STORE_TIER: Final = "assay.store.tier"
STORE_KEYS: Final = "assay.store.keys"
STORE_HITS: Final = "assay.store.hits"
STORE_RETRIES: Final = "assay.store.retries"
STORE_HEDGED: Final = "assay.store.hedged"
STORE_SHARED: Final = "assay.store.shared_by"
STORE_BREAKER: Final = "assay.store.breaker.state"

FEATURES: Final = "assay.features"
FEATURES_DERIVED: Final = "assay.features.derived"
FEATURES_SUBSTITUTED: Final = "assay.features.substituted"
FEATURES_STALE: Final = "assay.features.stale"
FEATURES_UNAVAILABLE: Final = "assay.features.unavailable"

MODEL: Final = "assay.model"
MODEL_ID: Final = "assay.model.id"
MODEL_VERSION: Final = "assay.model.version"
MODEL_STATUS: Final = "assay.model.status"
MODEL_BATCH_SIZE: Final = "assay.model.batch_size"

POLICY: Final = "assay.policy"
RULES_FIRED: Final = "assay.policy.rules_fired"
COUNTER_OFFER_JUDGED: Final = "assay.policy.counter_offer_judged"

REASONS: Final = "assay.reasons"
REASONS_COUNT: Final = "assay.reasons.count"

RECORD: Final = "assay.record"
RECORD_BYTES: Final = "assay.record.size_bytes"
RECORD_DURABILITY: Final = "assay.record.durability"

# One application of a batch.
DECIDE_ITEM: Final = "assay.decide"

DECISION_SERVICE: Final = "assay.decision.v1.DecisionService"
FEATURE_SERVICE: Final = "assay.feature.v1.FeatureService"
DECISION_METHODS: Final = ("Decide", "DecideBatch", "DecideStream", "GetDecision", "ListFlows")
FEATURE_METHODS: Final = ("PutFeatures", "IngestEvents", "GetFeatures", "DeleteSubject")
OUTCOME_SERVICE: Final = "assay.outcome.v1.OutcomeService"
OUTCOME_METHODS: Final = ("RecordOutcome", "RecordOutcomes", "GetOutcome", "ListOutcomes")
