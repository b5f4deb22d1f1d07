"""The `infer` command: records, windows, recordings and status lines for files and cameras."""
