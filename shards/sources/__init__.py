"""Where frames come from: one kind of input a file, each turned into the same units of work."""
