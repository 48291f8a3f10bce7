"""The Hugging Face engine's carrying-out: a plan at work inside a stock transformers model (`attach`)."""
