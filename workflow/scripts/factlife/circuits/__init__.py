"""Circuits: the parts of a model that a fact goes through, and proof that it does."""
