"""One video to be made: what is asked (`job`), what it begins from (`inputs`), what is made so far (`journal`, `recording`)."""
