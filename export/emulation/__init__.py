"""A model file on emulated ARM cores: the system it runs in, the cores, and the comparison with this machine."""
