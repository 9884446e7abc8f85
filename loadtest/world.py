"""What one sending process knows: who applies, what was decided lately, and what ids it has given away."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from assay.decision.v1 import decision_pb2, decision_service_pb2
from loadtest.population import Population, request_for

_REMEMBERED = 2_000


@dataclass(slots=True)
class Ask:
    """One call to make.

    messages: one request, or those of a stream in turn; decisions: how many applications it holds; learn: told of the
    answer (of every answer of a stream) that came.
    """

    rpc: str
    messages: list[Any]
    decisions: int = 0
    learn: Callable[[Any], None] | None = None


@dataclass(slots=True)
class Attack:
    """What many applications of one attack share: a few devices, phones, addresses, networks."""

    mark: str
    devices: int = 3
    phones: int = 5
    addresses: int = 4
    started: float = field(default_factory=time.monotonic)


class World:
    """Makes ids and applications, and remembers what later calls need. One a process; not for several threads."""

    def __init__(self, population: Population, mark: str = "", seed: int | None = None) -> None:
        self.population = population
        # Ids are this process's own, so that no two calls of any run share a request id unless they mean to.
        self.mark = mark or os.urandom(5).hex()
        self.chance = random.Random(seed)
        # (request, decision id) of decisions made lately.
        self.decided: deque[tuple[decision_service_pb2.DecideRequest, str]] = deque(maxlen=_REMEMBERED)
        self.outcomes: deque[str] = deque(maxlen=_REMEMBERED)
        # Entities that were written to be erased.
        self.erasable: deque[str] = deque(maxlen=_REMEMBERED)
        # The digest of the bundle in service, for operators.
        self.digest = ""
        # Where the bundle lies on the server's machine, for operators. Empty: not known.
        self.bundle_path = ""
        self._count = itertools.count(1)
        self._attack = Attack(f"{self.mark}-0")
        self._attack_calls = 0

    def new_id(self, kind: str) -> str:
        """An id that was never used."""
        return f"lt-{kind}-{self.mark}-{next(self._count)}"

    def consumer(self) -> decision_service_pb2.DecideRequest:
        """A consumer applies for a loan."""
        return request_for(self.chance.choice(self.population.consumers), self.new_id("r"))

    def company(self) -> decision_service_pb2.DecideRequest:
        """A company applies for a loan."""
        return request_for(self.chance.choice(self.population.companies), self.new_id("r"))

    def anybody(self) -> decision_service_pb2.DecideRequest:
        """One in four is a company."""
        return self.company() if self.chance.random() < 0.25 else self.consumer()

    def attacker(self) -> decision_service_pb2.DecideRequest:
        """One application of an attack: a new name every time, over few devices, phones, addresses and networks. After
        some hundred applications the attack goes on with new ones."""
        self._attack_calls += 1
        if self._attack_calls % 400 == 0:
            self._attack = Attack(self.new_id("ring"))
        attack, chance = self._attack, self.chance
        request = request_for(chance.choice(self.population.consumers), self.new_id("r"))
        application = request.application
        application.subject.id = self.new_id("mule")
        shared = {
            "device": f"lt-device-{attack.mark}-{chance.randrange(attack.devices)}",
            "phone": f"lt-phone-{attack.mark}-{chance.randrange(attack.phones)}",
            "address": f"lt-address-{attack.mark}-{chance.randrange(attack.addresses)}",
            "ip": f"lt-ip-{attack.mark}-{chance.randrange(attack.addresses)}",
        }
        have = {entity.entity for entity in application.entities}
        for entity in application.entities:
            if entity.entity in shared:
                entity.id = shared[entity.entity]
        for name in shared.keys() - have:
            application.entities.add(entity=name, id=shared[name])
        # Scripts fill forms fast.
        application.fields["form_fill_seconds"].number = round(chance.uniform(2.0, 12.0), 1)
        return request

    def remember(self, request: decision_service_pb2.DecideRequest, decision: decision_pb2.Decision) -> None:
        """Keeps a decision for the calls that ask about it later."""
        self.decided.append((request, decision.decision_id))
