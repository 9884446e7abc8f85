"""A decision through `assay.client`. Start the server first: `make serve`. Then:

.venv/bin/python examples/client_decide.py                       # 127.0.0.1:50051
.venv/bin/python examples/client_decide.py HOST:PORT,HOST:PORT
"""

import sys

from assay.client import Client, Options, errors
from assay.decision.v1.decision_pb2 import Application, Verdict


def application() -> Application:
    made = Application(product="consumer_loan", term_months=36)
    made.amount.currency_code, made.amount.units = "USD", 12000
    made.subject.id = "applicant-1001"
    for entity in ("device", "phone", "email"):
        made.entities.add(entity=entity, id=f"{entity}-1001")
    made.fields["stated_monthly_income"].number = 5200
    return made


def main(hosts: str) -> None:
    # One client for the process: it keeps its connections, and threads share it.
    with Client(hosts, Options(timeout_s=2.0)) as client:
        client.warm_up()
        try:
            decision = client.decide(application(), request_id="los-2026-000417")
        except errors.InvalidRequest as error:
            for violation in error.field_violations:
                print(f"correct {violation.field}: {violation.description}")
            raise SystemExit(1) from error
        except errors.AssayError as error:
            print(f"ask again later with request id {error.request_id}: {error}")
            raise SystemExit(2) from error
    print(Verdict.Name(decision.verdict), decision.decision_id, "again" if decision.replayed else "new")
    for reason in decision.credit_reasons:
        print(f"  {reason.code}: {reason.text}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")
