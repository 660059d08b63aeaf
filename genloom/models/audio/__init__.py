"""Audio models, one file a family."""
