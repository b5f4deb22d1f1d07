"""The `bench` command: latency tables, comparisons, MLPerf-style scenarios, plots."""
