"""`bokilog recover`: goes on past what is lost for good, once somebody accepts the loss.

Decides how the loss is told and how it is confirmed; what is lost is decided below
(`shapes/accept_loss.py`).
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import click

from bokilog.cli.cluster import directory_option
from bokilog.cli.output import confirmed
from bokilog.shapes.accept_loss import AcceptLoss
from bokilog.shapes.cluster_layout import read_layout


@click.command()
@directory_option
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Go on without what is lost; without this, only say what that is.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def recover(directory: Path, accept_loss: bool, yes: bool) -> int:
    """Go on with a stopped cluster whose majority is lost for good.

    Says what is left and what will be lost. With --accept-loss, and after a question, the
    sequencers that are gone are made anew from those that are left, or from the indexes of storage
    nodes if none is, and the cluster gets a new history: session tokens from before are refused as
    HistoryChanged. Nothing is deleted. Bring back whatever directories can be brought back first.
    It is not started: `bokilog up` does.
    """
    there = quote(str(directory))
    with AcceptLoss(read_layout(directory)) as recovery:
        left = recovery.look()
        if not left.needs_acceptance:
            click.echo(f"nothing that it needs is lost; start it with: bokilog up --dir {there}")
            return 0
        click.echo(f"left, with a vote: {', '.join(left.alive) or 'no sequencer'}")
        for line in left.losses():
            click.echo(f"  {line}")
        if not accept_loss:
            click.echo(
                "nothing was changed; go on without it by:"
                f" bokilog recover --dir {there} --accept-loss"
            )
            return 1
        if not yes and not confirmed("Accept this loss for good?"):
            click.echo("nothing was changed")
            return 1
        view = recovery.accept(left)
        click.echo(f"term {view.term} begins a new history, {view.history_id}")
        click.echo(f"start it with: bokilog up --dir {there}")
    return 0
