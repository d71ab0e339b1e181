"""Sparse autoencoders and transcoders: training, evaluation, descriptions of their features, and files for other tools."""
