"""Text between people and models: tokenizers, and what happens to logits before a token is drawn."""
