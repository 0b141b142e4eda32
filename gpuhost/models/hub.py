"""The Hugging Face Hub, asked from the control side: which commit a revision is, which files it has, who may read them.

Nothing is downloaded. huggingface_hub is imported at the first question: a run that has none does not wait for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from gpuhost.catalog.lock import LockedFile, LockedModel
from gpuhost.errors import Problem, UserError
from gpuhost.models.patterns import chosen
from hostside.wire import printable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ENDPOINT = "https://huggingface.co"
ANSWER_S = 15.0  # a hub that says nothing for so long counts as not reachable
PAUSES_S = (1.0, 3.0)
LONGEST_PAUSE_S = 30.0  # of a hub that says when to come again
TRANSIENT = (408, 429, 500, 502, 503, 504)

T = TypeVar("T")


class HubError(UserError):
    """What the hub did not give. `kind`: unreachable, gated, token, licence, scope, repository, revision, refused."""

    def __init__(self, kind: str, what: str, hint: str) -> None:
        super().__init__(Problem(printable(what), hint))
        self.kind = kind


def resolve(
    repo: str,
    revision: str,
    allow: Sequence[str] = ("*",),
    ignore: Sequence[str] = (),
    endpoint: str = ENDPOINT,
    token: str | None = None,
) -> LockedModel:
    """The commit that a revision is now, and the files of it that the patterns choose. `token`: sent when given.

    Raises HubError when the hub does not say, UserError when no file is chosen.
    """
    found = listing(endpoint, repo, revision, token)
    paths = chosen(found.files, allow, ignore)
    if not paths:
        raise UserError(nothing_chosen(repo, revision, endpoint))
    return LockedModel(commit=found.commit, files={path: found.files[path] for path in paths})


def nothing_chosen(repo: str, revision: str, endpoint: str) -> Problem:
    """The problem of patterns that match no file."""
    what = f"no file of `{repo}` at `{revision}` matches `allow` and `ignore`"
    return Problem(what, f"see {endpoint}/{repo}/tree/{revision} for what there is")


@cache
def listing(endpoint: str, repo: str, revision: str, token: str | None = None) -> LockedModel:
    """The commit that a revision is, and all of its files. Asked once in a process. Raises HubError."""
    api = _client(endpoint, token)

    def ask() -> LockedModel:
        info = api.model_info(repo, revision=revision)
        tree = api.list_repo_tree(repo, recursive=True, revision=info.sha)
        files = {each.path: _file(each) for each in tree if hasattr(each, "blob_id")}  # a folder has none
        return LockedModel(commit=str(info.sha), files=files)

    return _asked(ask, endpoint, repo, revision, token)


@cache
def check_access(endpoint: str, repo: str, token: str | None) -> None:
    """Returns when the files of a repository can be read with this token, or without one. Asked once in a process.

    Raises HubError.
    """
    api = _client(endpoint, token)
    _asked(lambda: api.auth_check(repo), endpoint, repo, "", token)


def _file(entry: Any) -> LockedFile:
    return LockedFile(size=entry.size, sha256=entry.lfs.sha256 if entry.lfs else None, git_sha1=entry.blob_id)


def _client(endpoint: str, token: str | None) -> HfApi:
    from huggingface_hub import HfApi

    _be_patient()
    # False, not None, keeps it from looking for a token by itself.
    return HfApi(endpoint=endpoint, token=token or False)


@cache
def _be_patient() -> None:
    """Once in a process: huggingface_hub asks for a tree without any time limit, and closes its client in each child
    that is forked.

    A child waits there for a lock that a greenlet of its parent holds (the question of another host), and while it
    waits it goes on as a second run, over the same connections, instead of becoming `git`, or what else was to run.
    """
    import httpx2
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils.tqdm import disable_progress_bars

    class Patient(httpx2.Client):
        def build_request(self, *arguments: Any, **named: Any) -> httpx2.Request:
            return super().build_request(*arguments, **{**named, "timeout": ANSWER_S})

        def close(self) -> None:
            if os.getpid() == process:
                super().close()

    process = os.getpid()
    set_client_factory(lambda: Patient(follow_redirects=True))
    constants.HF_HUB_DISABLE_TELEMETRY = True
    disable_progress_bars()


def _asked(ask: Callable[[], T], endpoint: str, repo: str, revision: str, token: str | None) -> T:
    """The answer, asked for again after a while when a failure may pass. Raises HubError only."""
    import httpx2
    from huggingface_hub import errors

    for pause_s in (*PAUSES_S, None):
        try:
            return ask()
        except errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status not in TRANSIENT or pause_s is None:
                raise _refused(error, status, endpoint, repo, revision, token) from None
            time.sleep(_asked_for(error, pause_s))
        except (httpx2.HTTPError, OSError) as error:
            if pause_s is None:
                raise _unreachable(error, endpoint, repo) from None
            time.sleep(pause_s)
        except errors.OfflineModeIsEnabled:
            what, hint = "the hub is switched off here by `HF_HUB_OFFLINE`", "unset it for gpuhost"
            raise HubError("unreachable", what, hint) from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"what answers at {endpoint} for `{repo}` is not a hub ({type(error).__name__})"
            raise HubError("unreachable", what, "check `hub_endpoint` and the proxy of this machine") from None
    raise AssertionError("the last pause is None")


def _asked_for(error: Any, pause_s: float) -> float:
    """The pause that the hub asks for, within bounds."""
    wished = error.response.headers.get("Retry-After", "")
    return min(float(wished), LONGEST_PAUSE_S) if wished.isdigit() else pause_s


def _unreachable(error: Exception, endpoint: str, repo: str) -> HubError:
    cause = " ".join(str(error.__cause__ or error).split())[:120] or type(error).__name__
    what = f"the hub at {endpoint} cannot be reached from here for `{repo}`: {cause}"
    return HubError("unreachable", what, "check network, DNS and proxy of this machine; `gpuhost lock` needs it once")


def _refused(error: Any, status: int, endpoint: str, repo: str, revision: str, token: str | None) -> HubError:
    from huggingface_hub import errors

    page, tokens = f"{endpoint}/{repo}", f"{endpoint}/settings/tokens"
    # GatedRepoError is a RepositoryNotFoundError, so it comes first; 401 and 403 both raise it.
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return _gated(error, status, endpoint, repo, token)
    if isinstance(error, errors.RevisionNotFoundError):
        what = f"`{repo}` has no revision `{revision}`"
        return HubError("revision", what, f"see {page}/commits/main for what there is, and correct `revision`")
    if status == 401 and token:
        what = f"the hub refuses the token, or hides `{repo}` from it (401)"
        return HubError("token", what, f"make a new read token at {tokens}, and check the repository's name")
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        what = f"the hub knows no public repository `{repo}`"
        return HubError("repository", what, "check its name; a private one needs `gated` and HF_TOKEN")
    return HubError("refused", f"the hub answered {status} for `{repo}`", "wait, then run again")


def _gated(error: Any, status: int, endpoint: str, repo: str, token: str | None) -> HubError:
    page, tokens = f"{endpoint}/{repo}", f"{endpoint}/settings/tokens"
    said = error.response.headers.get("X-Error-Message", "")
    if not token:
        what = f"`{repo}` is gated, and there is no Hugging Face token"
        hint = (
            f"accept its licence at {page}, set `gated` of the model to True, and HF_TOKEN in .env to a read token of"
        )
        return HubError("gated", what, f"{hint} that account ({tokens})")
    if status == 401:
        what = f"`{repo}` is gated, and the hub refuses the token (401)"
        return HubError("token", what, f"the token is wrong or revoked: make a new one at {tokens}")
    if "fine-grained" in said or _lacks_scope(endpoint, token):
        what = f"the token may not read gated repositories, such as `{repo}` (403)"
        hint = f'tick "Read access to contents of all public gated repos" of the token at {tokens}'
        return HubError("scope", what, hint)
    if "review" in said:
        what = f"the request for access to `{repo}` is still under review (403)"
        return HubError("licence", what, f"wait for its authors; {page} shows the state")
    what = f"the account of the token has not accepted the licence of `{repo}` (403)"
    return HubError("licence", what, f"accept it at {page}, as the account whose token HF_TOKEN is")


def _lacks_scope(endpoint: str, token: str) -> bool:
    """True when the hub says of the token that it is fine-grained and may not read gated repositories."""
    try:
        said = _client(endpoint, token).whoami()
        access = said["auth"]["accessToken"]
        return access["role"] == "fineGrained" and not access["fineGrained"].get("canReadGatedRepos")
    except Exception:  # it may say nothing of tokens, or nothing at all: then it is the licence
        return False
