"""Parity of an exported file with its reference: figures, gate, layer report, recommendation."""
