"""Reference-tracking garbage collection: a pure policy between a scan and a sweep."""
