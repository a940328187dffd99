"""What frozen layers make of an image, computed once: cache.py holds it, hook.py says when."""
