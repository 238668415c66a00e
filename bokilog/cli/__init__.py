"""The `bokilog` command: one module per command group."""
