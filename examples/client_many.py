"""Many decisions: a batch, and a stream, each with errors of single items. Start the server first: `make serve`. Then:

.venv/bin/python examples/client_many.py [HOST:PORT,HOST:PORT]
"""

import sys
from collections.abc import Iterator

from assay.client import Client
from assay.decision.v1.decision_service_pb2 import DecideRequest


def request(number: int) -> DecideRequest:
    made = DecideRequest(request_id=f"campaign-2026-05-{number}")
    application = made.application
    application.product, application.term_months = "consumer_loan", 36
    application.amount.currency_code, application.amount.units = "USD", 5000
    application.subject.id = f"applicant-{number}"
    if number == 3:
        application.term_months = 7  # a term that nobody offers
    return made


def applications() -> Iterator[DecideRequest]:
    """What a file or a queue would give; it is read as far ahead as is needed."""
    return (request(number) for number in range(10))


def main(hosts: str) -> None:
    with Client(hosts) as client:
        # In pieces of what the server takes at once. Safe to run again after an interruption: the ids are the same.
        for outcome in client.decide_many(applications()):
            if outcome.decision is not None:
                print(outcome.request_id, outcome.decision.decision_id)
            elif outcome.error is not None:
                print(outcome.request_id, outcome.error.reason, [one.field for one in outcome.error.field_violations])
        # One after the other on one stream, at most sixteen under way, answers in the order of the requests.
        answered = list(client.decide_stream(applications(), window=16))
        print(f"{len(answered)} answered, {sum(outcome.error is not None for outcome in answered)} at fault")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")
