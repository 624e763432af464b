"""The parts of the test bench that all experiments share; see the tree in the README."""
