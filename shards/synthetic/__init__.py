"""Generated clips with exact boxes: drawn, textured objects that move over photographs. For demos and tests."""
