"""From nothing to the embedded checkpoint: `python -m instruments.llava --out DIR`."""
