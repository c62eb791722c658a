"""One video: what is asked (`job`), what it begins with (`inputs`), what is made (`journal`, `recording`)."""
