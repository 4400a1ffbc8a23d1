"""Random changes to training images, and to what is annotated in them."""
