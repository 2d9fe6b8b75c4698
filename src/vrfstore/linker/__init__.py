"""From a lock to an environment: a pure plan, and its application."""
