"""What finished runs say: pairs, statistics, verdicts, the report."""
