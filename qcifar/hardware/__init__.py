"""Circuits beyond the ideal simulator: noise, shots, mitigation."""
