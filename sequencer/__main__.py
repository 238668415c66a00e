"""`python -m bokilog.sequencer --settings FILE --node NAME`."""

import sys

from bokilog.io.process import main
from bokilog.sequencer.node import run
from bokilog.sequencer.settings import SequencerSettings

sys.exit(main(SequencerSettings, section="sequencer", run=run))
