"""From a bare host to answering services. One call a stage, in order; what a host gets stands in group_data/all.py.

pyinfra inventory.py deploy.py            (shows the changes, asks, applies)
pyinfra inventory.py deploy.py --dry      (only shows them)
"""

from gpuhost.run.stage import read_ahead
from tasks import destroy, engine, gpu, images, installs, layout, models, preflight, secrets, services, stacks, verify

run = preflight.preflight()  # refuses before anything changes; None: this host is refused
run = gpu.driver(run)  # a host that lacks a driver which the data asks for gets that first, and alone
read_ahead(run)  # what the stages below ask of the host to plan, in one round trip
engine.base(run)
layout.programs(run)
models.told(run)  # the other hosts: what this one has, so that the hub is asked for a byte once
engine.packages(run)
gpu.toolkit(run)
engine.configuration(run)
layout.layout(run)
secrets.secrets(run)
models.models(run)
images.images(run)
gpu.proof(run)
installs.installs(run)
stacks.stacks(run)
verify.verify(run)
gpu.prove(run)  # only when asked for: `gpuhost verify --gpu`
secrets.audit(run)  # only when asked for: `gpuhost secrets audit`
models.status(run)  # only when asked for, as the next three: `gpuhost models status`
models.verify(run)
models.prune(run)
models.take(run)
services.status(run)  # only when asked for: `gpuhost status`
services.logs(run)  # only when asked for: `gpuhost logs`
destroy.destroy(run)  # only when asked for: `gpuhost destroy`
