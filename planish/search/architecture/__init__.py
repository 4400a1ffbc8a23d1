"""Architecture search: from images and a latency to a network that was built for them."""
