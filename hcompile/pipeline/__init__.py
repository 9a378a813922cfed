"""The compiler from a user's request to its report: optimize, inspect, verify, tune. Each is a file of that name."""
