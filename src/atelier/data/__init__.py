"""Where pictures come from, the shard cache, the sampling plan, the loader, and tools for data sets."""
