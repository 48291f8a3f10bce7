"""Benchmarks that can be believed: quality with intervals and paired tests, cost part by part, on one kernel."""
