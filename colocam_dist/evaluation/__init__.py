"""From maps to boxes to CorLoc, as published, under three stated threshold rules."""
