"""The demonstration on real data: the flights of New York City in 2013, and their weather."""
