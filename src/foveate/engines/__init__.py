"""Engines answer prompts about images, with or without a plan."""
