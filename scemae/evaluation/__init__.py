"""What trained features are worth: landmark matching and detection, the tables of the paper, reports."""
