"""`python -m bokilog.functions --settings FILE --node NAME`: the host of a function node."""

import sys

from bokilog.functions.node import FunctionNodeSettings, run
from bokilog.io.process import main

sys.exit(main(FunctionNodeSettings, section="host", run=run))
