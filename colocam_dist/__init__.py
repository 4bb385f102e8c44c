"""Learn to localize objects in videos from video-level class tags alone (CoLo-CAM), on one laptop or many GPUs."""

__version__ = "0.1.0"
