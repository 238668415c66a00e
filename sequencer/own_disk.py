"""Whether a sequencer that starts has its own disk, before anything is made or stored (P14).

What a lone sequencer finds in its directory is where the term ends, and the next view says so for
good. With an empty directory, because a disk is not mounted or is gone, that would be the start:
every replica would stand past the end of the term, and everything acknowledged be out of reach,
also once the directory is back. So it looks first. One of several may begin with another disk,
which has no vote until the others have told it all; but none with its old name and its metalog
gone: its vote would be for an end that never was.

Does not know: what journals hold, which is for their recovery.
"""

from __future__ import annotations

from pathlib import Path

from bokilog.errors import NotReady
from bokilog.ids import NodeId
from bokilog.io.directory import IDENTITY, read_identity
from bokilog.sequencer.next_view import sequencers_of
from bokilog.view import View


def check_own_disk(path: Path, view: View, node: NodeId) -> None:
    """Changes nothing.

    Args:
        path: the sequencer's data directory, which may not be there.
        view: the last one stored.
        node: the sequencer.

    Raises:
        NotReady: it must not start with what is there.
    """
    sequencers = sequencers_of(view)
    named = view.node(node).disk_id if node in sequencers else ""
    if not view.term or not named:
        return
    there = (path / IDENTITY).exists()
    if not there or read_identity(path).disk_id != named:
        if len(sequencers) > 1:
            return
        raise NotReady(
            f"{str(path)!r} is {'another' if there else 'no'} directory of {node}: the view of"
            f" term {view.term} names disk {named[:8]}. It is the only sequencer, so what it holds"
            " is nowhere else: bring its directory back (is its disk mounted?). If it is lost for"
            " good, go on with what storage nodes have stored (bokilog down, bokilog recover), or"
            " restore a backup"
        )
    for space in view.spaces:
        metalog = path / f"metalog-{space.id}"
        if node in space.sequencers and space.durability == "sync" and not metalog.is_dir():
            others = (
                f", or remove all of {path.name}, and the other sequencers tell it everything"
                if len(space.sequencers) > 1
                else ", or restore a backup"
            )
            raise NotReady(
                f"{str(metalog)!r} is gone, without which {node} would deny what it has ordered:"
                f" put it back as it was{others}"
            )
