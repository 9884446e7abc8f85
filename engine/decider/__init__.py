"""The shell around the pure middle: it reads the clock, the store and the journal, and hands facts to the pipeline.

    choose the arm -> claim the request id -> prepare -> read rows -> conclude -> build -> commit to the journal
    -> settle the request id -> answer -> count, watch, shadow

Threads may call it at once; calls that meet share reads, runs and writes (`together`). It knows nothing of gRPC.
"""

from engine.decider.claim import plain_digest
from engine.decider.decide import Decider
from engine.decider.keep import Answered, DeciderSettings, Tell
from engine.served import Asked, Served

__all__ = ["Answered", "Asked", "Decider", "DeciderSettings", "Served", "Tell", "plain_digest"]
