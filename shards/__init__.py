"""Raw data sets to WebDataset shards: `scemae shards build | verify | info`. Imported as scemae.shards."""
