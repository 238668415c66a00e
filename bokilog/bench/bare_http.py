"""A bare aiohttp server with one JSON handler: the least that a call over HTTP could cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack

from aiohttp import web

from bokilog.bench.orders import Order, Outcome
from bokilog.bench.serve import Handler, serve


def handlers(stack: AsyncExitStack) -> Mapping[str, Handler]:
    """Start serving; the outcome's place is the port."""

    async def start(order: Order) -> Outcome:
        served = web.Application()
        served.router.add_post("/f/{name}", _answer)
        runner = web.AppRunner(served, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return Outcome(place=str(runner.addresses[0][1]))

    return {"start": start}


async def _answer(request: web.Request) -> web.Response:
    arguments = await request.json()
    return web.json_response(arguments["x"])


if __name__ == "__main__":
    sys.exit(serve(handlers))
