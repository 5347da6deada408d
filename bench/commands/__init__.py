"""Commands with more to say than the core of the command line has room for; they may know ``reports``."""
