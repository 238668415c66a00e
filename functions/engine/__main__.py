"""`python -m bokilog.functions.engine --settings FILE --node NAME`."""

import sys

from bokilog.functions.engine.node import run
from bokilog.functions.engine.process_settings import EngineProcessSettings
from bokilog.io.process import main

sys.exit(main(EngineProcessSettings, section="engine", run=run))
