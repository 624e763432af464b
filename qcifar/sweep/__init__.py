"""Many runs from one plan: what a plan says, and who runs its jobs."""
