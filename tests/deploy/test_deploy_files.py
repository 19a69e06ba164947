"""What `deploy/` and its page promise: commands that exist, one port, no root, no secrets."""

from __future__ import annotations

import configparser
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sanakit import __version__
from sanakit.cli import command_line

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = [DEPLOY / "Dockerfile", DEPLOY / "Dockerfile.cuda"]
PAGE = ROOT / "docs" / "deploy.md"
PORT = "8000"
LAST_WORDS = 5  # seconds that the server takes on top of --drain
# `sana serve ...` or `docker ... IMAGE serve ...` as a line of its own, also in a comment
STARTS = r"(?:(?:sudo .*)?(?:/opt/sanakit/bin/)?sana|docker .*(?:sanakit|server))"
COMMAND = re.compile(rf"^(?:# +|ExecStart=)?{STARTS} (?P<words>(?:serve|keys|ui) .*)$", flags=re.M)


def words_of_files() -> list[Path]:
    return [PAGE, *(path for path in sorted(DEPLOY.rglob("*")) if path.is_file() and path.suffix != ".pyc")]


def instructions(path: Path, name: str) -> list[str]:
    """What follows one instruction of a Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.M).replace("\\\n", " ")
    return re.findall(rf"^\s*{name} (.+)$", text, flags=re.M)


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # pyright: ignore - systemd's names have capitals
    parser.read(DEPLOY / "sana.service", encoding="utf-8")
    return parser


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every command line of `sana` in the files and on the page, with its place."""
    for path in DOCKERFILES:
        entry, command = (json.loads(instructions(path, name)[-1]) for name in ("ENTRYPOINT", "CMD"))
        assert entry == ["sana"]
        yield path.name, command
    yield "compose.yaml", compose()["services"]["server"]["command"]
    for path in words_of_files():
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for found in COMMAND.finditer(text):
            yield path.name, shlex.split(found["words"], comments=True)


def parse(words: list[str]) -> dict[str, Any]:
    """What the command line makes of the words; its own exception where it does not take them."""
    command: Any = typer.main.get_command(command_line())
    words = list(words)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return command.make_context("sana", words).params


def test_there_are_command_lines_to_check() -> None:
    names = [words[0] for _, words in command_lines()]
    assert names.count("serve") >= 7
    assert names.count("keys") >= 7


@pytest.mark.parametrize(
    ("place", "words"),
    [pytest.param(*found, id=f"{n} {found[0]}") for n, found in enumerate(command_lines())],
)
def test_our_command_line_takes_them(place: str, words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("words", [["serve", "--prot", "8000"], ["keys", "create"], ["serve", "--port", "x"]])
def test_the_check_itself_refuses_wrong_ones(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"(No such option|Missing parameter|valid integer)"):
        parse(words)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_serves_and_is_asked_at_the_port_that_it_exposes(path: Path) -> None:
    assert instructions(path, "EXPOSE") == [PORT]
    assert parse(json.loads(instructions(path, "CMD")[-1]))["port"] == int(PORT)
    assert f"http://127.0.0.1:{PORT}/health" in instructions(path, "HEALTHCHECK")[0]


def test_all_others_use_that_port_too() -> None:
    server = compose()["services"]["server"]
    assert parse(server["command"])["port"] == int(PORT)
    assert server["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    assert f"http://127.0.0.1:{PORT}/ready" in server["healthcheck"]["test"][-1]
    assert parse(shlex.split(unit()["Service"]["ExecStart"])[1:])["port"] == int(PORT)
    ray = yaml.safe_load((DEPLOY / "ray-serve.yaml").read_text(encoding="utf-8"))
    assert ray["http_options"] == {"host": "127.0.0.1", "port": int(PORT)}
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", PAGE.read_text(encoding="utf-8"))) == {PORT}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_does_not_run_as_root_and_writes_where_every_command_looks(path: Path) -> None:
    assert instructions(path, "USER") == ["10001:10001"]
    assert "--uid 10001 " in " ".join(instructions(path, "RUN"))
    folder = f"{instructions(path, 'WORKDIR')[-1]}/{parse(['keys', 'list'])['data']}"
    assert instructions(path, "VOLUME") == [folder]


def test_both_images_differ_in_torch_and_the_gpu_alone() -> None:
    def common(path: Path) -> list[str]:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if not re.match(r"#|.*(TORCH_INDEX|NVIDIA_)", line)]

    assert common(DOCKERFILES[0]) == common(DOCKERFILES[1])


def test_the_image_gets_the_files_that_it_copies_and_the_extras_that_it_names() -> None:
    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), flags=re.M)
    copies = [line.split()[:-1] for line in instructions(DOCKERFILES[0], "COPY") if "--from" not in line]
    assert sorted(name for names in copies for name in names) == sorted(let_in)
    assert all((ROOT / name).exists() for name in let_in)
    extras = next(value for value in instructions(DOCKERFILES[0], "ARG") if value.startswith("EXTRAS="))
    assert set(extras.removeprefix("EXTRAS=").split(",")) <= set(pyproject()["optional-dependencies"])
    assert (
        len(re.findall(r"^torch==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.M)) == 1
    )


def test_compose_waits_for_a_healthy_database_and_keeps_what_both_write() -> None:
    services = compose()["services"]
    assert services["server"]["depends_on"]["database"]["condition"] == "service_healthy"
    assert services["database"]["image"].startswith("postgres:16")
    volumes = [line.split(":")[0] for service in services.values() for line in service["volumes"]]
    assert sorted(volumes) == sorted(compose()["volumes"])
    assert services["server"]["volumes"][0].endswith(instructions(DOCKERFILES[0], "VOLUME")[0])
    for service in services.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert "no-new-privileges:true" in service["security_opt"]
        assert "privileged" not in service


def test_no_file_holds_a_secret() -> None:
    environments = [service["environment"] for service in compose()["services"].values()]
    passwords = [value for each in environments for name, value in each.items() if "PASSWORD" in name]
    assert len(passwords) == 2
    assert all(value.startswith("${POSTGRES_PASSWORD:?") for value in passwords)
    for path in words_of_files():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"sk-sana-\w|hf_\w{10}|://\w+:[^@\s$]+@", text), path
    assert "/.env" in (DEPLOY / ".gitignore").read_text(encoding="utf-8").split()


def test_whoever_stops_the_server_waits_longer_than_it_drains() -> None:
    server = compose()["services"]["server"]
    pairs = [
        (parse(server["command"])["drain"], server["stop_grace_period"].removesuffix("s")),
        (
            parse(shlex.split(unit()["Service"]["ExecStart"])[1:])["drain"],
            unit()["Service"]["TimeoutStopSec"],
        ),
    ]
    assert [float(patience) > drain + LAST_WORDS for drain, patience in pairs] == [True, True]


def test_the_unit_has_no_user_and_writes_to_its_own_folders_only() -> None:
    service = unit()["Service"]
    assert (service["DynamicUser"], service["ProtectSystem"], service["Restart"]) == (
        "yes",
        "strict",
        "on-failure",
    )
    assert parse(shlex.split(service["ExecStart"])[1:])["data"] == Path("%S") / service["StateDirectory"]
    assert parse(shlex.split(service["ExecStart"])[1:])["host"] == "127.0.0.1"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_knows_every_line_of_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "sana.service").read_text(encoding="utf-8")
    copy = tmp_path / "sana.service"
    copy.write_text(text.replace("/opt/sanakit/bin/sana ", "/bin/true "), encoding="utf-8")
    checked = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_a_space_installs_what_the_page_needs_in_the_same_ranges() -> None:
    lines = (DEPLOY / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    extras = pyproject()["optional-dependencies"]
    gradio = next(line for line in extras["ui"] if line.startswith("gradio"))
    wanted = {*pyproject()["dependencies"], *extras["serve"], *extras["ui"]} - {gradio, "sanakit[serve]"}
    assert {line for line in lines if not line.startswith(("#", "--"))} == wanted


def test_a_space_names_its_file_and_the_licence() -> None:
    readme = (DEPLOY / "space" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(readme.split("---")[1])
    assert (front["sdk"], front["license"]) == ("gradio", "apache-2.0")
    assert (DEPLOY / "space" / front["app_file"]).is_file()
    assert tuple(map(int, front["python_version"].split("."))) >= (3, 11)


def test_the_space_serves_the_page_where_gradio_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    gradio = pytest.importorskip("gradio", reason="needs sanakit[ui]")
    import uvicorn
    from starlette.testclient import TestClient

    asked: list[tuple[str, int]] = []

    def run(app: Any, *, host: str, port: int) -> None:
        asked.append((host, port))
        assert "sanakit" in TestClient(app).get("/").text

    monkeypatch.setattr(uvicorn, "run", run)
    monkeypatch.setenv("GRADIO_SERVER_NAME", "127.0.0.2")
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7999")
    runpy.run_path(str(DEPLOY / "space" / "app.py"), run_name="__main__")
    assert asked == [("127.0.0.2", 7999)]
    front = yaml.safe_load((DEPLOY / "space" / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["sdk_version"].split(".")[0] == gradio.__version__.split(".")[0]


def test_cog_names_this_version_and_its_own_class() -> None:
    config = yaml.safe_load((DEPLOY / "cog" / "cog.yaml").read_text(encoding="utf-8"))
    file, name = config["run"].split(":")
    assert f"class {name}(BaseRunner)" in (DEPLOY / "cog" / file).read_text(encoding="utf-8")
    requirements = (DEPLOY / "cog" / config["build"]["python_requirements"]).read_text(encoding="utf-8")
    assert f"./dist/sanakit-{__version__}-py3-none-linux_x86_64.whl" in requirements


def test_cog_draws_a_picture_that_carries_its_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sanakit.images.image import read_metadata

    stub = types.ModuleType("cog")
    stub.BaseRunner, stub.Path = object, Path  # pyright: ignore
    stub.Input = lambda default=None, **limits: default  # pyright: ignore
    monkeypatch.setitem(sys.modules, "cog", stub)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    runner = runpy.run_path(str(DEPLOY / "cog" / "run.py"))["Runner"]()
    runner.setup()
    picture = runner.run(prompt="a red apple", width=64, height=96, steps=2, seed=7)
    assert picture.parent == tmp_path
    found = read_metadata(picture)
    assert (found["prompt"], found["width"], found["height"], found["seed"]) == ("a red apple", 64, 96, 7)
    assert found["guidance"] == runner.pipe.settings.guidance
