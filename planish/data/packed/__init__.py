"""Data in archives, WebDataset shards and Parquet files, unpacked once into the cache."""
