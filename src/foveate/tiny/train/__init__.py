"""From nothing to the embedded checkpoint: `python -m foveate.tiny.train --out DIR`."""
