"""`python -m bokilog.storage_nodes --settings FILE --node NAME`."""

import sys

from bokilog.io.process import main
from bokilog.storage_nodes.node import run
from bokilog.storage_nodes.settings import StorageSettings

sys.exit(main(StorageSettings, section="storage", run=run))
