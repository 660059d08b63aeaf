"""Metrics: pure functions on tensors. `features` turns images into vectors, `distribution` compares sets of them."""
