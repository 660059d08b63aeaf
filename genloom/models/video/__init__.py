"""Video models, one file a family."""
