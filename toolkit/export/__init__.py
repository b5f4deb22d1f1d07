"""What an export does and says beyond one file: its figures, and where no recipe passes the training for 8 bits and the ways out."""
