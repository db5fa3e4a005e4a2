"""The HTML pages that commands write: one frame, one style sheet, the numbers' format."""
