"""The server: on this machine alone, without another machine's help, and nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pyro_vipaint.app import server
from pyro_vipaint.app.page import Answers
from pyro_vipaint.app.server import is_local
from pyro_vipaint.cli.main import app
from pyro_vipaint.errors import InputError

HOSTS = {"127.0.0.1": True, "::1": True, "localhost": True, "0.0.0.0": False, "::": False, "192.168.1.5": False}


@pytest.mark.parametrize(("host", "local"), HOSTS.items())
def test_who_can_reach_it(host: str, local: bool) -> None:
    """Loopback addresses are this machine's alone."""
    assert is_local(host) == local


SERVED = """
import os, socket, urllib.request
from pyro_vipaint.app.server import OFFLINE, POLICY, served

asked, original, before = [], socket.socket.connect, dict(os.environ)
socket.socket.connect = lambda self, address: (asked.append(address), original(self, address))[1]
with served(port=0) as page:
    assert page.url.startswith("http://127.0.0.1:") and page.folder.is_dir()
    assert {name: os.environ[name] for name in OFFLINE} == OFFLINE
    with urllib.request.urlopen(page.url) as answer:
        text = answer.read().decode()
        assert answer.headers["content-security-policy"] == POLICY
    assert "fonts.googleapis" not in text, text
    with urllib.request.urlopen(page.url + "config") as answer:
        assert b"gradio.live" not in answer.read()
assert asked and {address[0] for address in asked if isinstance(address, tuple)} <= {"127.0.0.1", "localhost"}, asked
assert not page.folder.exists() and dict(os.environ) == before
"""
TAKEN = """
import socket
from pyro_vipaint.app.server import served
from pyro_vipaint.errors import InputError

with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    try:
        with served(port=port):
            raise AssertionError("it is served")
    except InputError as error:
        assert f"cannot be served at 127.0.0.1, port {port}" in str(error) and chr(10) not in str(error), error
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [SERVED, TAKEN], ids=["served here alone", "a port that is taken"])
def test_serving(program: str, tmp_path: Path) -> None:
    """In a process of its own, since Gradio leaves sockets open.

    The page forbids the browser other addresses and names none, the server itself asks none, and neither files nor
    settings stay; a port that is taken is one line.
    """
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("vipaint-app-*"))


def test_without_gradio_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the command, and exit code 2."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    result = CliRunner().invoke(app, ["app", "--no-open"])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "python -m pip install 'pyro-vipaint[app]'" in result.stderr


@pytest.mark.filterwarnings("default:Every machine that reaches")
def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes its options on, warns of an address that others reach, and refuses an unknown prior beforehand."""
    given: list[Any] = []

    class Served:
        url = "http://here/"

        def __init__(self, *arguments: Any) -> None:
            given.append(arguments)

        def __enter__(self) -> Served:
            return self

        def __exit__(self, *_: Any) -> None:
            return None

    monkeypatch.setattr(server, "served", Served)
    monkeypatch.setattr(server, "wait", lambda: None)
    runner = CliRunner()
    quiet = runner.invoke(app, ["app", "--no-open", "--prior", "faces32", "--port", "0", "--device", "cpu"])
    assert quiet.exit_code == 0 and quiet.stderr == "" and "http://here/" in quiet.stdout
    loud = runner.invoke(app, ["app", "--host", "0.0.0.0"])
    assert loud.stderr.startswith("Warning: Every machine that reaches 0.0.0.0") and loud.stderr.count("\n") == 1
    assert given == [("127.0.0.1", 0, ["faces32"], "cpu", False), ("0.0.0.0", None, (), "auto", True)]
    refused = runner.invoke(app, ["app", "--prior", "nowhere"])
    assert refused.exit_code == 2 and "There is no prior 'nowhere'" in refused.stderr and len(given) == 2


def test_other_machines_can_use_the_offered_priors_alone(tmp_path: Path) -> None:
    """A folder of this machine that the command did not name is refused; on this machine it is not."""
    answers = Answers(tmp_path, ("fashion32",), own_folders=False)
    with pytest.raises(InputError, match="There is no prior"):
        answers.source(str(tmp_path))
    assert Answers(tmp_path, ("fashion32",)).source(str(tmp_path)) == str(tmp_path)
