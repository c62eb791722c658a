"""The command line: commands parse what is asked, ask the library, and report."""
