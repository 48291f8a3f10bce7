"""Pure tensor functions that selectors are built from: batch-first, deterministic, no model in sight."""
