"""One applicant from the first fact to the last: features, a decision, its offer and reasons, an outcome, erasure.
Start the server first: `make serve`. Then:

    .venv/bin/python examples/client_lifecycle.py [HOST:PORT,HOST:PORT]
"""

import sys
import time
import uuid

from assay.client import Client, errors
from assay.decision.v1.decision_pb2 import VERDICT_APPROVE, VERDICT_COUNTER_OFFER, Application, Decision
from assay.feature.v1.feature_pb2 import FeatureRow
from assay.outcome.v1.outcome_pb2 import TAKE_UP_RESULT_ACCEPTED, Outcome


def applicant_file(subject: str) -> FeatureRow:
    """One row is one view of one entity. What it does not name is NULL from then on."""
    row = FeatureRow(view="applicant_file", entity_id=subject)
    row.event_time.GetCurrentTime()  # when the facts were true, by the source's clock
    row.values["age_years"].integer = 44
    row.values["verified_monthly_income"].number = 5200.0
    row.values["employment_status"].text = "employed"
    return row


def application(subject: str) -> Application:
    made = Application(product="consumer_loan", term_months=24)
    made.amount.currency_code, made.amount.units = "USD", 5000
    made.subject.id = subject
    made.fields["stated_monthly_income"].number = 5200
    return made


def show(decision: Decision) -> None:
    print(decision.flow, "decided; the verdict turns on", list(decision.deciding_components) or "nothing against it")
    if decision.verdict in (VERDICT_APPROVE, VERDICT_COUNTER_OFFER):
        offer = decision.offer
        print(f"offer: {offer.amount.units} over {offer.term_months} months at {offer.annual_rate_percent} %")
    for reason in (*decision.credit_reasons, *decision.policy_reasons):
        print(f"  {reason.code}: {reason.text}")  # `internal_text` is for staff
    for substitution in decision.substitutions:
        print(f"  not known: {substitution.feature}")


def main(hosts: str) -> None:
    # A surrogate id, never a national id or an account number.
    subject = f"applicant-{uuid.uuid4()}"
    with Client(hosts) as client:
        answer = client.put_features([applicant_file(subject)])
        print(f"{answer.written} rows written, {len(answer.rejected)} rejected")

        decision = client.decide(application(subject), request_id=f"los-{subject}")
        show(decision)

        # Keep decision_id with the loan: what happens later is joined to the decision by it.
        outcome = Outcome(outcome_id=f"take-up-{subject}", decision_id=decision.decision_id, source="loan-servicing")
        time.sleep(0.01)
        outcome.observed_at.GetCurrentTime()
        outcome.take_up.result = TAKE_UP_RESULT_ACCEPTED
        try:
            print("recorded at", client.record_outcome(outcome).recorded_at.ToJsonString())
        except errors.InvalidRequest as error:  # nothing was offered, so nothing can be taken up
            print("refused:", [violation.description for violation in error.field_violations])

        print(client.delete_subject(subject).rows_removed, "rows erased")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")
