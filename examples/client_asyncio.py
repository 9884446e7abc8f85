"""Decisions inside an asyncio service: many at once, hedged, in one trace. Start the server first: `make serve`. Then:

.venv/bin/python examples/client_asyncio.py [HOST:PORT,HOST:PORT]
"""

import asyncio
import sys

from assay.client import AsyncClient, Hedge, Options, errors
from assay.decision.v1.decision_pb2 import Application, Decision


def application(number: int) -> Application:
    made = Application(product="consumer_loan", term_months=36)
    made.amount.currency_code, made.amount.units = "USD", 5000
    made.subject.id = f"applicant-{number}"
    return made


async def decide(client: AsyncClient, number: int, traceparent: str) -> Decision | None:
    """What a handler of a web service would do with one request."""
    try:
        return await client.decide(application(number), request_id=f"web-2026-{number}", traceparent=traceparent)
    except errors.Overloaded as error:
        print(f"come back in {error.retry_after_s} s")  # 429 with Retry-After
    except errors.AssayError as error:
        print(f"{error.reason or error.code.name}: trace {error.trace_id}")  # 503, and the same request id later
    return None


async def main(hosts: str) -> None:
    # A second host is asked when the first is slower than 95 % of the last answers; both know each other's request ids.
    options = Options(timeout_s=5.0, hedge=Hedge(percentile=0.95))
    async with AsyncClient(hosts, options) as client:
        await client.warm_up()
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        decisions = await asyncio.gather(*(decide(client, number, parent) for number in range(20)))
    print(f"{sum(decision is not None for decision in decisions)} of {len(decisions)} decided in one trace")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"))
