"""Files: written whole or not at all, read with clear errors; images, logs and drawing."""
