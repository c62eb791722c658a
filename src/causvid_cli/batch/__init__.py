"""Many videos from one file: its rows, what is done of them, and the processes that make the rest."""
