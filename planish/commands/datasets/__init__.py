"""What is in a data set, and what the images themselves allow."""
