"""Changes of the input resolution or the width, and graph simplification."""
