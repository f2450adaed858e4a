"""The Matrix protocol with no input, output, clock or randomness: what it says, as functions and data."""
