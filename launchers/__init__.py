"""Command-line entries: each parses, builds, runs, and returns an exit code; the logic is in `colocam_dist`."""
