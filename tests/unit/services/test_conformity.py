"""The order in the data."""

from __future__ import annotations

from typing import Any

import pytest

from gpuhost.services.conformity import problems
from tests.unit import sample

ALLOWED = ["docker.io/library/python", "docker.io/acme/server"]
IMAGE = {
    "pull": "docker.io/acme/server:v1.2.3",
    "arguments": {"v1.2.3": ["{repo}", "--parser=hermes", "--size", "7"]},
    "refused": {"--old": "it is gone", "BAD_PORT": "it is internal"},
    "families": {"Acme/*": {"--parser": "hermes"}, "Other/*": {"--parser": "other"}},
}


def found(**over: Any) -> list[tuple[str, str]]:
    """What is not in order in the sample with a pulled image for `painter`."""
    changes = {"allowed_images": ALLOWED, "images.pulled": IMAGE, "services.painter.image": "pulled"}
    catalog = sample.catalog({**changes, **{key.replace("__", "."): value for key, value in over.items()}})
    return [(problem.what, problem.hint) for problem in problems(catalog)]


def test_a_sample_in_order() -> None:
    assert found() == []


@pytest.mark.parametrize(
    "reference",
    [
        *("docker.io/acme/server:1.0", "docker.io/acme/server:v1.2.3-rc1", "docker.io/acme/server:2025.10.1_x"),
        "docker.io/acme/server@sha256:" + "a" * 64,
        "docker.io/acme/server:v1.2.3@sha256:" + "a" * 64,
    ],
)
def test_releases(reference: str) -> None:
    release = reference.partition("@")[0].partition(":")[2]
    image = {**IMAGE, "pull": reference, "arguments": {release: ["--parser=hermes"]} if release else {}}
    assert found(images__pulled={**image, "families": {}}) == []


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ("docker.io/acme/server:main", "`images.pulled`: `main` is no release"),
        ("docker.io/acme/server:v1", "`images.pulled`: `v1` is no release"),
        ("docker.io/acme/server:cuda-12.1", "`images.pulled`: `cuda-12.1` is no release"),
        ("docker.io/acme/servers:v1.2.3", "`images.pulled`: docker.io/acme/servers is not among the allowed "),
        ("acme/server:v1.2.3", "`images.pulled`: acme/server is not among the allowed repositories"),
        ("localhost:5000/acme/server:v1.2.3", "`images.pulled`: localhost:5000/acme/server is not among"),
    ],
)
def test_an_image_that_is_no_release_of_an_allowed_repository(reference: str, what: str) -> None:
    [(said, hint)] = found(images__pulled={"pull": reference})
    assert said.startswith(what) and hint


def test_what_ours_are_built_from_is_looked_at_too() -> None:
    base = {"build": "orchestrator", "args": {"BASE_IMAGE": "docker.io/library/python:3", "OTHER": "x"}}
    assert [what for what, _ in found(images__api=base)] == ["`images.api`: `3` is no release"]
    bare = {**base, "args": {"BASE_IMAGE": "docker.io/library/python"}}
    said = "`images.api`: `docker.io/library/python` is no release"
    assert [what for what, _ in found(images__api=bare)] == [said]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (r"\\wsl.localhost\Ubuntu\home\me\cache", "a path of Windows into WSL"),
        ("//wsl$/Ubuntu/x", "a path of Windows into WSL"),
        (r"C:\models", "a path of Windows"),
        ("--cache=/mnt/d/models", "a drive of Windows"),
        ("/home/jesse/models", "somebody's home"),
        ("--cache=/Users/jesse/models", "somebody's home"),
        ("/root/.cache/huggingface", "root's home"),
    ],
)
def test_a_path_that_only_one_machine_has(text: str, what: str) -> None:
    for field in ("services__painter__arguments", "services__painter__environment", "services__painter__options"):
        value = [text] if field.endswith("arguments") else {"CACHE": text}
        [(said, _)] = found(**{field: value})
        assert text in said and said.endswith(f"is {what}")
    [(said, _)] = found(services__painter__options={"more": {"paths": [text]}})  # wherever it stands
    assert said.endswith(f"is {what}")


@pytest.mark.parametrize("text", ["/srv/home/x", "/data/root/x", "https://a.example/home", "/mnt/data/x", "a: b"])
def test_a_path_that_every_machine_may_have(text: str) -> None:
    assert found(services__painter__arguments=[text]) == []


def test_a_home_as_the_root_of_all() -> None:
    assert [what for what, _ in found(data_root="/home/jesse/genai")] == [
        "`data_root`: `/home/jesse/genai` is somebody's home"
    ]


@pytest.mark.parametrize("argument", ["--old", "--old=1"])
def test_a_refused_argument_says_why(argument: str) -> None:
    expected = [("`services.painter.arguments`: --old is refused: it is gone", "take --old away")]
    assert found(services__painter__arguments=[argument]) == expected
    assert found(images__pulled={**IMAGE, "arguments": {"v1.2.3": ["--parser=hermes", argument]}}) == expected


def test_a_refused_variable_says_why() -> None:
    [(what, _)] = found(services__painter__environment={"BAD_PORT": "1"})
    assert what == "`services.painter.environment`: BAD_PORT is refused: it is internal"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--parser=granite"], "`services.painter`: --parser=granite does not go with Acme/Models"),
        (["--parser", "granite"], "`services.painter`: --parser=granite does not go with Acme/Models"),
        (["--size=7"], "`services.painter`: --parser is missing, which goes with Acme/Models"),
    ],
)
def test_arguments_go_with_the_models_family(arguments: list[str], what: str) -> None:
    assert [said for said, _ in found(images__pulled={**IMAGE, "arguments": {"v1.2.3": arguments}})] == [what]


def test_another_family_is_asked_for_nothing() -> None:
    image = {**IMAGE, "arguments": {"v1.2.3": []}, "families": {"Other/*": {"--parser": "other"}}}
    assert found(images__pulled=image) == []


def test_a_command_line_that_cannot_be_written_is_told_here_too() -> None:
    [(what, _)] = found(images__pulled={**IMAGE, "arguments": {"v1.2.3": ["--parser=hermes", "--x={size}"]}})
    assert "`{size}`" in what
