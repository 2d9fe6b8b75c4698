"""The contract with whoever asks for environments: the parts put together."""
