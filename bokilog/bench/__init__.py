"""What `bokilog bench` and the scripts of scripts/bench measure with, and what they measure."""
