"""From tar shards to windows of uint8 frames: index -> plan -> windows -> frames -> stream."""
