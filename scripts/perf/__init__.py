"""What the perf-* scripts share: brokers, load, statistics. Python's standard library only."""
