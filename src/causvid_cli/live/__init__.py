"""A video that is changed while it is made, and made again from what was told, bit for bit."""
