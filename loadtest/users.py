"""Locust users: who calls, what for, and how often. Each is a caller that a lender has.

Importing this module imports Locust, which patches the whole process for gevent: do so in processes of its own only.
"""

from __future__ import annotations

import gevent
from locust import User, constant, task

from loadtest.asks import ASKS
from loadtest.locust_process import PROCESS
from loadtest.measures import Call
from loadtest.sending import send


class AssayUser(User):
    """One caller with a connection of its own, until there are many."""

    abstract = True

    def on_start(self) -> None:
        """Takes a connection."""
        self.connection = PROCESS.connection()

    def wait_time(self) -> float:
        """The pause between two things that a user does, as the scenario has it."""
        return PROCESS.pause_s()

    def ask(self, name: str) -> None:
        """Makes one call. Where the server has too much to do and names a wait, waits and asks again under the same
        request id, as a loan origination system should."""
        ask, scenario = ASKS[name](PROCESS.world), PROCESS.scenario
        for attempt in range(1, scenario.shed.attempts_max + 1):
            sent = send(self.connection, ask, scenario.timeout_ms / 1000, PROCESS.target.headers)
            PROCESS.note(sent.call)
            self._tell_locust(sent.call)
            if not sent.call.shed or not scenario.shed.honour_retry_info or sent.retry_after_s is None:
                return
            if attempt == scenario.shed.attempts_max:
                PROCESS.measures.gave_up += 1
                return
            PROCESS.measures.retried += 1
            gevent.sleep(min(sent.retry_after_s, scenario.shed.wait_max_ms / 1000))

    def _tell_locust(self, call: Call) -> None:
        """For Locust's own tables. What was shed has rows of its own, and is a failure where the scenario says so."""
        wrong = call.failure or "; ".join(sorted(call.found.errors))
        shed = call.shed and not PROCESS.scenario.shed.is_error
        self.environment.events.request.fire(
            request_type="shed" if shed else "grpc",
            name=call.rpc,
            response_time=call.took_us / 1000,
            response_length=0,
            exception=RuntimeError(wrong) if wrong and not shed else None,
            context={},
        )


class InteractiveLos(AssayUser):
    """A loan origination system with an applicant at its desk: one application at a time, and a look at what was
    decided."""

    @task(20)
    def decide(self) -> None:
        self.ask("decide_consumer")

    @task(2)
    def look_up(self) -> None:
        self.ask("get_decision")

    @task(1)
    def repeat(self) -> None:
        self.ask("decide_again")

    @task(1)
    def read_all(self) -> None:
        self.ask("get_decision_full")

    @task(1)
    def list_flows(self) -> None:
        self.ask("list_flows")


class BatchPartner(AssayUser):
    """A partner that brings its applications by the batch."""

    @task(10)
    def batch(self) -> None:
        self.ask("batch")

    @task(1)
    def largest(self) -> None:
        self.ask("batch_largest")


class StreamPartner(AssayUser):
    """A partner that keeps a stream open and sends applications as they come."""

    @task
    def stream(self) -> None:
        self.ask("stream")


class VelocityAttack(AssayUser):
    """An attack: many applications in a row over few devices, phones, addresses and networks, by a script that hardly
    pauses. It keeps the same counters busy."""

    wait_time = constant(0.02)

    @task
    def attack(self) -> None:
        self.ask("decide_attack")


class MixedProducts(AssayUser):
    """A lender with several products, and with applicants of several languages."""

    @task(3)
    def consumer(self) -> None:
        self.ask("decide_consumer")

    @task(2)
    def company(self) -> None:
        self.ask("decide_company")

    @task(1)
    def chinese(self) -> None:
        self.ask("decide_chinese")


class FeatureWriter(AssayUser):
    """What feeds the feature store: bureau extracts, event streams, a desk that looks, and erasures."""

    @task(6)
    def put(self) -> None:
        self.ask("put_features")

    @task(4)
    def ingest(self) -> None:
        self.ask("ingest_events")

    @task(4)
    def look(self) -> None:
        self.ask("get_features")

    @task(1)
    def erase(self) -> None:
        self.ask("delete_subject")


class OutcomeSender(AssayUser):
    """Loan servicing and investigators, who say what became of what was decided."""

    @task(6)
    def record(self) -> None:
        self.ask("record_outcome")

    @task(2)
    def stream(self) -> None:
        self.ask("record_outcomes")

    @task(2)
    def look(self) -> None:
        self.ask("get_outcome")

    @task(2)
    def list(self) -> None:
        self.ask("list_outcomes")


class Operator(AssayUser):
    """An operator who looks at what is served, and loads and puts in service what is there already."""

    @task(4)
    def traffic(self) -> None:
        self.ask("get_traffic")

    @task(3)
    def bundles(self) -> None:
        self.ask("list_bundles")

    @task(3)
    def changes(self) -> None:
        self.ask("list_changes")

    @task(3)
    def shadows(self) -> None:
        self.ask("get_shadow_report")

    @task(1)
    def load(self) -> None:
        self.ask("load_bundle")

    @task(1)
    def upload(self) -> None:
        self.ask("upload_bundle")

    @task(1)
    def activate(self) -> None:
        self.ask("activate")

    @task(1)
    def set_traffic(self) -> None:
        self.ask("set_traffic")

    @task(1)
    def roll_back(self) -> None:
        self.ask("rollback")


# By the name that scenarios use.
KINDS: dict[str, type[AssayUser]] = {
    "interactive_los": InteractiveLos,
    "batch_partner": BatchPartner,
    "stream_partner": StreamPartner,
    "velocity_attack": VelocityAttack,
    "mixed_products": MixedProducts,
    "feature_writer": FeatureWriter,
    "outcome_sender": OutcomeSender,
    "operator": Operator,
}
