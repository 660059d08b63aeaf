"""Text models, one file a family."""
