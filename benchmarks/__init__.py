"""Ours beside a peer, in one run, as a ratio. `python -m benchmarks.run`; results are kept in RESULTS.md."""
