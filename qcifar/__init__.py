"""Shared nouns of the test bench: constants, data, augmentation, models, descriptors, run folder."""
