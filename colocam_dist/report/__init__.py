"""Pictures, videos, curves, and the one-file report page."""
