"""What made the small models that Foveate is measured on. In the repository only: users need none of it."""
