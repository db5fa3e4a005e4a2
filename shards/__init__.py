"""Raw data sets to WebDataset shards: `scemae shards build | verify | info`, as scemae.shards."""
