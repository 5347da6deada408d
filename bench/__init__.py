"""Running, measuring and storing: bench knows contracts, never a method or data set by name."""
