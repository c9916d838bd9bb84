"""Published names and shapes, mapped to ours."""
