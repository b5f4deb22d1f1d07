"""Packed data sets: images inside Parquet and Arrow files, as Hugging Face's `datasets` writes them."""
