"""One file for each raw data set: its images and lists as splits of samples."""
