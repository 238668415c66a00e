"""The only floor below the shells that touches clocks, sockets, files and processes."""
