"""An app: functions that share state through the log.

Run it with `bokilog dev examples/shop.py:app`, or in this process with `python examples/shop.py`.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import bokilog

app = bokilog.App("shop")


@app.function(timeout_s=30)
async def price(item: str) -> float:
    """What one costs."""
    return {"coat": 99.5, "scarf": 20.0}[item]


@app.function(retries=2)
async def buy(ctx: bokilog.Context, item: str, count: int = 1) -> float:
    """Order some; what they cost together."""
    each = await price.remote(item)  # on this node, or another one
    await ctx.book("orders").append(f"{count} {item}".encode(), tags=[f"item:{item}"])
    return each * count


@app.function
async def orders(ctx: bokilog.Context, item: str) -> AsyncIterator[str]:
    """All orders of an item."""
    async for record in ctx.book("orders").scan(tag=f"item:{item}"):
        yield record.data.decode()


async def main(url: str = "memory:") -> None:
    """Buy something, and look at it."""
    async with bokilog.connect(url) as log, app.local(log):
        print(await buy.remote("coat", count=2))
        print([order async for order in orders.stream("coat")])  # it sees what `buy` has written
        call = await buy.spawn("scarf")  # a record: it is run whatever dies now
        print(await call.result())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
