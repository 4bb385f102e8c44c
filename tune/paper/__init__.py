"""The tables and figures of the paper: what it printed, beside what studies and benchmarks of this project found."""
