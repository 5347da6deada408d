"""Methods, tokenisers and their training: torch, and no knowledge of how they are measured."""
