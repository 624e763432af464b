"""Finished runs beyond the ideal simulator: noise, shots, mitigation, devices, jobs; circuits as others write them."""
