#!/usr/bin/env python3
"""Start, show and stop a cluster from a checkout: `scripts/cluster.py up|status|down [options]`.

The same commands as those of the installed `bokilog`; see `scripts/cluster.py up --help`. Needs the
checkout's environment, which scripts/test and scripts/demo make.
"""

import sys

COMMANDS = ("up", "status", "down")


def main() -> int:
    """Run one of the cluster's commands."""
    try:
        from bokilog.cli.main import main as bokilog
    except ImportError as error:
        print(
            f"{error}: run scripts/test or scripts/demo once, then "
            ".venv/bin/python scripts/cluster.py",
            file=sys.stderr,
        )
        return 2
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"usage: scripts/cluster.py {'|'.join(COMMANDS)} [options]", file=sys.stderr)
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    return bokilog(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
