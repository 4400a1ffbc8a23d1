"""Large images as overlapping tiles, and the predictions on tiles put together again."""
