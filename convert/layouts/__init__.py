"""Map published tensor names and layouts to ours."""
