"""One trace for every call, recorded compactly on the request path and encoded outside of it.

    context.py   the caller's trace context, new ids, and the context that plug-ins nest under
    shapes.py    every span of the engine: name, kind, attributes; names.py alone spells the names
    recorder.py  takes trace records, never blocks          -> exporter_main.py (a process), or a thread
    batcher.py   tail rule, encoding, batches               -> sender.py: OTLP over gRPC or HTTP, retries, spill
    search.py    finds a trace in the local file            -> waterfall.py draws it

Nothing is imported here, so that the exporter process starts with what it needs and no more.
"""
