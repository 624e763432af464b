"""Finished runs beyond the ideal simulator: shots, noise, devices, jobs; circuits as others write them."""
