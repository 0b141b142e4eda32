"""Models from the Hugging Face Hub."""

from __future__ import annotations

from gpuhost.models import operations
from gpuhost.run.host_run import HostRun
from gpuhost.run.stage import stage


@stage("models")
def models(run: HostRun) -> None:
    """The models of this host's services, verified, in the one cache."""
    if not run.models:
        return
    operations.fetched(
        name="models | fetched and verified",
        wanted=run.models,
        paths=run.paths,
        manifest=run.paths.model_manifest,
        account=run.catalog.account,
        endpoint=run.catalog.hub_endpoint,
        secrets=run.secrets,
    )
