"""Request ids that are decided once, also where several processes or hosts may be sent the same request."""
