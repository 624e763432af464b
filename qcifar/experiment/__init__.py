"""What makes a run: network, recipe, identity, folder and result."""
