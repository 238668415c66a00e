"""Comparisons that need more than bokilog: other systems, and bare chains without safety."""
