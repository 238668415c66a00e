"""Move money between two accounts exactly once, whatever crashes in between.

    python examples/transfer.py                          # in memory
    python examples/transfer.py file:bank                # kept in the folder bank/
    python examples/transfer.py bokilog://127.0.0.1:7300 # in a running cluster

An account is the fold of its tag: the sum of its postings. A transfer is one unit, so both postings
are there or none. `unless` refuses it when either account has moved since it was read; `key` makes
a second attempt of the same transfer harmless, also when nobody knows how the first one ended.
"""

import asyncio
import sys

import bokilog
from bokilog import AppendUnknown, ConditionFailed, Entry, LogBook


async def balance(bank: LogBook, account: str) -> tuple[int, int]:
    """What the account holds, and the seqnum of its last posting."""
    total = seen = 0
    async for posting in bank.scan(tag=f"account:{account}"):
        total, seen = total + int(posting.data), posting.seqnum
    return total, seen


async def transfer(bank: LogBook, name: str, source: str, target: str, amount: int) -> None:
    """Move `amount` once, however often and by whomever this is called with the same `name`."""
    while await bank.read_next(tag=f"transfer:{name}") is None:
        held, source_seen = await balance(bank, source)
        _, target_seen = await balance(bank, target)
        if not 0 < amount <= held:
            raise ValueError(f"{source} holds {held}: {amount} cannot be moved")
        withdrawal = Entry(b"%d" % -amount, [f"account:{source}", f"transfer:{name}"])
        deposit = Entry(b"%d" % amount, [f"account:{target}", f"transfer:{name}"])
        unmoved = {f"account:{source}": source_seen, f"account:{target}": target_seen}
        try:
            await bank.append_batch([withdrawal, deposit], unless=unmoved, key=name)
        except ConditionFailed:
            continue  # another transfer came first: read the accounts again
        except AppendUnknown:
            continue  # it may be in the log or on its way: the key lets it in once


async def main() -> None:
    """Pay a year's rent, every month of it from two places at once."""
    async with bokilog.connect(sys.argv[1] if len(sys.argv) > 1 else "memory:") as log:
        bank = log.book("bank")
        await bank.append(b"1200", "account:alice", key="opening")
        months = [f"rent-2013-{month:02}" for month in range(1, 13)] * 2
        await asyncio.gather(*(transfer(bank, name, "alice", "bob", 75) for name in months))
        for account in ("alice", "bob"):
            print(account, (await balance(bank, account))[0])


if __name__ == "__main__":
    asyncio.run(main())
