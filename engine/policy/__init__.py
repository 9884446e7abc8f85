"""The policy stage: decision tables, and the verdict and offer that follow from them.

Start at `engine.policy.judge`, which says how a verdict comes about. `compile_policy` runs when a bundle is loaded,
`Policy.decide` for each application.
"""

from engine.policy.evaluate import compile_policy
from engine.policy.judge import Policy
from engine.policy.roles import OWN_REASONS, ROLES, Role
from engine.policy.slots import FlowTerms, SlotSpec

__all__ = ["OWN_REASONS", "ROLES", "FlowTerms", "Policy", "Role", "SlotSpec", "compile_policy"]
