"""The store: entries, records and memos on disk, and who may touch them when."""
