"""Real processes under real faults, judged by the simulator's checkers: `scripts/chaos.py`."""
