"""What a user names as data: folders, manifests and built-in sets, and the inventory of each."""
