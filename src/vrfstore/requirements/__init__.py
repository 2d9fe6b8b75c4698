"""From a requirements file to a lock, and from a lock to wheels."""
