"""The server of the page: on this machine alone unless told otherwise, without a request to any other.

Gradio's analytics and its look for a newer version are off, the fonts are those of the system, and the page forbids the
browser to load anything from elsewhere. Uploads and downloads lie in a temporary folder, which is removed at the end.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any, NamedTuple

from pyro_vipaint.app.pictures import MAX_BYTES
from pyro_vipaint.errors import InputError, whole

HOST, PORT = "127.0.0.1", 7860  # Gradio's port
PORTS = 20  # that are tried from the default one on
OFFLINE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "True",
    "DO_NOT_TRACK": "1",
}
POLICY = (  # Gradio's page has scripts and styles inside it, and loads workers and pictures from blobs
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' data: blob:; "
    "base-uri 'self'; form-action 'self'; object-src 'none'"
)
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
FIXED = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")
SESSIONS = 16  # whose results are kept
TERMINATED = 143  # as shells report SIGTERM


class Served(NamedTuple):
    """A running server: its address, and the temporary folder of its files."""

    url: str
    folder: Path


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server at ``host``."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


@contextmanager
def served(
    host: str = HOST,
    port: int | None = None,
    priors: Sequence[str] = (),
    device: str = "auto",
    open_browser: bool = False,
) -> Iterator[Served]:
    """Serves the page while the block runs; its files vanish with it.

    Args:
        host: the address to listen at.
        port: 0 is any that is free; by default the first free one of ``PORTS`` from ``PORT`` on.
        priors: names and folders to offer beside those that ship.
        device: of the runs.
        open_browser: whether the page is opened in the browser.

    Raises:
        InputError: Gradio is not installed, or the server cannot listen there.
    """
    number = None if port is None else whole("port", port, 0, 65535)
    with tempfile.TemporaryDirectory(prefix="vipaint-app-", ignore_cleanup_errors=True) as name, _offline(name, host):
        blocks = _page(Path(name), priors, device, is_local(host))
        try:
            _, url, _ = blocks.launch(
                server_name=host, server_port=_free_port(host) if number == 0 else number, inbrowser=open_browser,
                share=False, quiet=True, prevent_thread_lock=True, max_file_size=MAX_BYTES, show_error=False,
                enable_monitoring=False, ssr_mode=False, run_history=False, footer_links=[], app_kwargs=_policy(),
                state_session_capacity=SESSIONS, **_looks(),
            )  # fmt: skip
        except OSError as error:
            raise InputError(f"The page cannot be served at {host}, port {port or PORT}: {error}") from error
        try:
            yield Served(url, Path(name))
        finally:
            blocks.close(verbose=False)


def wait() -> None:
    """Waits until the process is told to end, by an interrupt or by SIGTERM; both unwind the stack."""
    if current_thread() is main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    Event().wait()


def _page(folder: Path, priors: Sequence[str], device: str, own_folders: bool) -> Any:
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise InputError("The page needs Gradio: python -m pip install 'pyro-vipaint[app]'.") from error
    from pyro_vipaint.app.page import QUEUE, page

    return page(folder, priors, device, own_folders).queue(max_size=QUEUE, api_open=False)


@contextmanager
def _offline(folder: str, host: str) -> Iterator[None]:
    """The environment of a server that asks no other machine and keeps its files in ``folder``."""
    local = ",".join(filter(None, [os.environ.get("NO_PROXY", ""), "127.0.0.1", "localhost", host]))
    settings = {**OFFLINE, "GRADIO_TEMP_DIR": folder, "NO_PROXY": local, "no_proxy": local}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _free_port(host: str) -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _policy() -> dict[str, Any]:
    """Arguments of the web application: every answer forbids the browser to load anything from elsewhere."""
    from starlette.middleware import Middleware

    class Policy:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def answer(message: Any) -> None:
                if message["type"] == "http.response.start":
                    headers = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                    message["headers"] = [*message.get("headers", []), *headers]
                await send(message)

            await self.app(scope, receive, answer if scope["type"] == "http" else send)

    return {"middleware": [Middleware(Policy)]}


def _looks() -> dict[str, Any]:
    import gradio as gr

    from pyro_vipaint.app.layout import CSS

    theme = gr.themes.Default(
        primary_hue=gr.themes.colors.blue, neutral_hue=gr.themes.colors.slate, font=FONTS, font_mono=FIXED
    )
    return {"theme": theme, "css": CSS}
