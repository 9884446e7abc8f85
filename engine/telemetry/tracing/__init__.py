"""One trace for every call, noted compactly on the request path and encoded outside of it.

    context.py      the caller's trace context, new ids, and the context that plug-ins nest under
    call.py         what is noted of a call while it runs, and the record that it becomes
    shapes.py       every span of the engine: name, kind, attributes; names.py alone spells the names
    recorder.py     takes records and never waits    -> exporter_process.py: a process of its own, or a thread
    batcher.py      tail rule, batches               -> sender.py: OTLP over gRPC or HTTP, retries, spill to disk
    search.py       finds a trace in the local file  -> waterfall.py draws it
    redact.py       ids that may be shown
    settings.py     what an operator chooses; settings_environment.py: OpenTelemetry's variables over it

Nothing is imported here, so that the exporter process starts with what it needs and no more.
"""
