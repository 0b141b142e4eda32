"""Plan, ask, do exactly that: what `gpuhost apply` and `gpuhost secrets sync` have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpuhost.cli.console import ERROR, confirmed, counted, differences, exit_code, list_changes
from gpuhost.errors import Problem
from gpuhost.run import pyinfra as pyinfra_run
from gpuhost.run.pyinfra import Outcome, Target

Refusal = Callable[[Outcome], Problem | None]


@dataclass(frozen=True)
class Applied:
    """The last run, which is the plan when that was refused; `more`: problems that the run could not tell itself."""

    outcome: Outcome
    more: Sequence[Problem] = ()


def planned(target: Target, only: Sequence[str] = (), refusal: Refusal = lambda outcome: None) -> Applied:
    """The plan, and what speaks against carrying it out."""
    outcome = pyinfra_run.plan(target, only)
    if exit_code(outcome, []) == ERROR:
        return Applied(outcome)
    problem = refusal(outcome)
    return Applied(outcome, [problem] if problem else [])


def apply(
    target: Target, yes: bool, as_json: bool, only: Sequence[str] = (), refusal: Refusal = lambda outcome: None
) -> Applied | None:
    """Plan, ask unless `yes`, apply with the plan as allow-list; None when the person said no.

    `only`: the stages to which both are limited; `refusal`: why a plan must not be carried out.
    """
    plan = planned(target, only, refusal)
    if exit_code(plan.outcome, []) == ERROR or plan.more:
        return plan
    changes: list[dict[str, Any]] = plan.outcome.changes("plan")
    if not as_json:
        list_changes(changes)
    if changes and not yes and not confirmed(f"Apply {counted(len(changes))}?"):
        return None
    outcome = pyinfra_run.apply(target, plan.outcome.events, live=not as_json, only=only)
    return Applied(outcome, differences(changes, outcome))
