"""What conversations are measured: one module each, with `run(rounds, scale)`."""
