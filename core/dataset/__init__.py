"""Images and image-level labels, of PASCAL VOC and SBD or of the user's own."""
