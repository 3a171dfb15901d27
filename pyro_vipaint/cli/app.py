"""``vipaint app``: the page in the browser."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

from pyro_vipaint.cli.options import Device, console


def app(
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than 127.0.0.1 let in other machines.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; by default the first free one from 7860 on.")] = None,
    prior: Annotated[list[str] | None, typer.Option(help="Prior or folder to offer first. May be repeated.")] = None,
    device: Device = "auto",
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Serves a page to paint a hole, watch the run and question the result, on this machine alone."""
    from pyro_vipaint._torch import resolve_device
    from pyro_vipaint.app.job import check_source
    from pyro_vipaint.app.server import is_local, served, wait

    resolve_device(device)
    for each in prior or ():
        check_source(each)
    if not is_local(host):
        warnings.warn(f"Every machine that reaches {host} can use the page: it has no password.", stacklevel=2)
    with served(host, port, prior or (), device, open_browser) as server:
        console.print(f"The page is at {server.url} (Ctrl-C ends it).", soft_wrap=True, markup=False)
        wait()
