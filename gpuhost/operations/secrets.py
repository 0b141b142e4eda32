"""Secrets that can be generated, generated once, on the control side."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from ..reconcile import Change
from ..secrets import SecretStore
from ..session import Commands, carry_out


@operation()
def generated(store: SecretStore, names: Sequence[str]) -> Commands:
    """Every named secret that can be generated exists in the control's file for this host."""
    changes = [
        Change("secrets", name, "generate", f"no source has it; into {store.path}") for name in store.to_generate(names)
    ]

    def generate(state: object, host: object) -> bool:
        store.generate(names)
        return True

    yield from carry_out(changes, [FunctionCommand(generate, [], {})])
