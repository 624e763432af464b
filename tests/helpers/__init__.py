"""What several test files use: the scripts as a user runs them, processes that can be killed, circuits and networks."""
