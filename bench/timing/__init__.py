"""The speed instrument: clock, calls, processes, sampling, and what the samples say."""
