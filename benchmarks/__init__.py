"""What `ed2 bench` runs: one module per verb, each with run(...) -> dict of figures."""
