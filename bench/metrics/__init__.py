"""Quality and rate of one point, raw first: sums per frame, counted tokens, and every convention that follows."""
