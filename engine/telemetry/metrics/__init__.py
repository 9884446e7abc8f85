"""Metrics: noted on the request path by one append, folded into counts in bulk behind it, shown to Prometheus and sent
over OTLP from the same snapshot.

    observe --append--> notes --fold--> counts --snapshot--> Prometheus text, OTLP, a shared directory
"""
