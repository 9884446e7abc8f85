"""The first call from a loan origination system. Start the server first: `make serve`. Then:

    .venv/bin/python examples/first_call.py

The applicant is known to the server once `examples/load_features.py` has written the rows; without them the answer is
REFER, and says which facts were missing.
"""

import grpc

from assay.decision.v1 import decision_service_pb2 as pb
from assay.decision.v1 import decision_service_pb2_grpc as rpc

stub = rpc.DecisionServiceStub(grpc.insecure_channel("127.0.0.1:50051"))
request = pb.DecideRequest(request_id="los-2026-000417")
application = request.application
application.product, application.term_months, application.subject.id = "consumer_loan", 36, "applicant-1001"
application.amount.currency_code, application.amount.units = "USD", 12000
for entity in ("device", "phone", "email"):
    application.entities.add(entity=entity, id=f"{entity}-1001")
application.fields["stated_monthly_income"].number = 5200
decision = stub.Decide(request, timeout=1.0).decision
print(decision)
