"""Circuits in a network: what runs them, what checks them, and what stands around them."""
